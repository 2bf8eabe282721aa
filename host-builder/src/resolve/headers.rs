//! Headers for another kernel than the lock's, to build modules for it.

use super::sources::apt::{Apt, Packages, Scope};
use super::sources::{Access, Source};
use super::suites::{self, strs};
use crate::common::error::{Error, Result};
use crate::pins::lock::{Lock, Set};
use crate::pins::profile::Profile;

/// Returns the lock with another toolroot: the profile's programs and these packages, with all
/// dependencies, as the archive has them now. The kernel release of the lock does not change.
pub fn with_headers(profile: &Profile, lock: &Lock, packages: &[String], access: Access) -> Result<Lock> {
    let Some(toolroot) = &profile.toolroot else {
        return Err(Error::new(format!(
            "profile {} has no [toolroot] for kernel headers",
            profile.name
        ))
        .hint(
            "use a profile with one, such as debian-13, or pass a directory with the headers: --headers DIR",
        ));
    };
    let from = suites::host(profile, &lock.driver)?;
    let suite = from.apt.suite.as_str();
    let apt = Apt::open(access, &from, &profile.arch)?;
    let names = [strs(&toolroot.packages), strs(packages)].concat();
    let artifacts = apt.resolve(Packages { names: &names, scope: Scope::Closure, suite })?;
    let mut lock = lock.clone();
    for artifact in &mut lock.artifact {
        artifact.sets.retain(|set| *set != Set::Toolroot);
    }
    lock.artifact.retain(|artifact| !artifact.sets.is_empty());
    lock.add(Set::Toolroot, artifacts);
    Ok(lock)
}
