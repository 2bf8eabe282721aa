//! The archives, the suites and the architecture that packages of a profile come from.

use crate::common::error::Result;
use crate::pins::lock::{Artifact, Lock, Set};
use crate::pins::profile::{Apt, Profile};

/// Architecture of 32-bit libraries on x86_64, as `uname -m` says it.
pub const ARCH32: &str = "i686";
/// The same as Debian says it.
pub const DEBIAN_ARCH32: &str = "i386";

/// Borrows each string.
pub fn strs(list: &[String]) -> Vec<&str> {
    list.iter().map(String::as_str).collect()
}

/// An archive of a profile, and the suites in it besides its own. Fetching must use the same list as resolving, because another list means
/// another apt state, with its own package lists.
#[derive(Debug, Clone)]
pub struct Suites<'a> {
    /// The archive.
    pub apt: &'a Apt,
    /// More suites.
    pub more_suites: Vec<&'a str>,
}

impl Suites<'_> {
    /// Whether packages of this suite come from here.
    fn has(&self, suite: &str) -> bool {
        self.apt.suite == suite || self.more_suites.contains(&suite)
    }
}

/// Where the packages of kernel and programs come from; those of the driver, too, if it has no archive of its own.
pub fn host<'a>(profile: &'a Profile, driver: &str) -> Result<Suites<'a>> {
    let mut more_suites: Vec<_> = profile.vm.iter().map(|vm| vm.suite.as_str()).collect();
    if profile.driver_apt.is_none() {
        more_suites.extend(driver_suites(profile, driver));
    }
    Ok(Suites { apt: profile.apt()?, more_suites })
}

/// Where the packages of the driver come from.
pub fn driver<'a>(profile: &'a Profile, driver: &str) -> Result<Suites<'a>> {
    match &profile.driver_apt {
        Some(apt) => Ok(Suites { apt, more_suites: driver_suites(profile, driver) }),
        None => host(profile, driver),
    }
}

/// Whether a locked package comes from the driver's archive, where that is another one than the host's: by its suite, and by what it is for
/// if both archives have a suite of that name.
pub fn is_of_driver(artifact: &Artifact, profile: &Profile, lock: &Lock) -> bool {
    let (Some(_), Ok(host), Ok(driver)) =
        (&profile.driver_apt, host(profile, &lock.driver), driver(profile, &lock.driver))
    else {
        return false;
    };
    let is_for_driver =
        |set: &Set| matches!(set, Set::Userspace(_) | Set::Compat32(_) | Set::Firmware | Set::ModuleSource);
    match (host.has(&artifact.suite), driver.has(&artifact.suite)) {
        (true, true) => artifact.sets.iter().any(is_for_driver),
        (is_hosts, _) => !is_hosts,
    }
}

/// Where the 32-bit packages of the driver come from.
pub fn compat32<'a>(profile: &'a Profile, driver: &str) -> Result<Suites<'a>> {
    Ok(Suites { apt: profile.driver_apt()?, more_suites: driver_suites(profile, driver) })
}

/// The suites besides its archive's own in which a driver may be that is not the profile's.
fn driver_suites<'a>(profile: &'a Profile, driver: &str) -> Vec<&'a str> {
    let other = profile.driver_apt().ok().filter(|_| driver != profile.driver);
    other.map(|apt| strs(&apt.more_suites)).unwrap_or_default()
}
