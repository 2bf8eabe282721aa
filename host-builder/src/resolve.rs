//! From intent to facts: resolves a profile into a lock, and gets what a lock names into the cache.

use crate::cache::Cache;
use crate::error::{Error, Result};
use crate::lock::{Artifact, Lock, Set};
use crate::profile::Profile;
use crate::source::apt::{Apt, Scope};
use crate::ui::Ui;
use std::collections::BTreeSet;

const IMAGE_PREFIX: &str = "linux-image-";
/// Architecture of 32-bit libraries beside x86_64, as `uname -m` says it, and as packages do.
const ARCH32: &str = "i686";
const DEBIAN_ARCH32: &str = "i386";

/// Resolves every package of a profile. Nothing is downloaded but package lists.
pub fn resolve(profile: &Profile, text: &str, cache: &Cache, ui: &Ui) -> Result<Lock> {
    ui.line(format!("resolving profile {} …", profile.name));
    let suite = profile.apt.suite.as_str();
    let apt = Apt::open(cache, &profile.apt, &[&profile.vm.suite], &profile.arch, ui)?;
    let image = kernel_image(&apt, &profile.kernel.package, suite)?;
    let release = image.trim_start_matches(IMAGE_PREFIX).to_owned();
    let mut lock = Lock::new(&profile.name, text, release.clone(), profile.driver.clone());
    lock.add(Set::Kernel, apt.resolve(&[&image], Scope::Exact, suite)?);
    for (set, names) in [
        (Set::Firmware, names(&profile.firmware.packages)),
        (Set::ModuleSource, vec![profile.modules.package.as_str()]),
    ] {
        let artifacts = apt.resolve(&names, Scope::Exact, suite)?;
        artifacts.iter().try_for_each(|artifact| check_version(artifact, &profile.driver))?;
        lock.add(set, artifacts);
    }
    let packages = profile.userspace.iter().map(|(of, group)| (Set::Userspace(*of), &group.packages));
    add_userspace(&mut lock, packages.collect(), &apt, suite)?;
    let compat32 = profile.userspace.iter().filter(|(_, group)| !group.compat32.is_empty());
    let compat32: Vec<_> = compat32.map(|(of, group)| (Set::Compat32(*of), &group.compat32)).collect();
    if !compat32.is_empty() {
        let apt = Apt::open(cache, &profile.apt, &[], ARCH32, ui)?;
        add_userspace(&mut lock, compat32, &apt, suite)?;
    }
    let headers = format!("linux-headers-{release}");
    let mut tools = names(&profile.toolroot.packages);
    tools.push(&headers);
    lock.add(Set::Toolroot, apt.resolve(&tools, Scope::Closure, suite)?);
    lock.add(Set::Vm, apt.resolve(&names(&profile.vm.packages), Scope::Closure, &profile.vm.suite)?);
    Ok(lock)
}

/// Resolves the packages of all capabilities at once, and adds each to the sets that name it. They are not checked for
/// the driver's version: some are versioned apart from it, and libraries are checked file by file.
fn add_userspace(lock: &mut Lock, groups: Vec<(Set, &Vec<String>)>, apt: &Apt, suite: &str) -> Result<()> {
    let all: BTreeSet<&str> = groups.iter().flat_map(|(_, packages)| names(packages)).collect();
    let artifacts = apt.resolve(&Vec::from_iter(all), Scope::Exact, suite)?;
    for (set, packages) in groups {
        let of_set = artifacts.iter().filter(|artifact| packages.contains(&artifact.name));
        lock.add(set, of_set.cloned().collect());
    }
    Ok(())
}

/// Fetches what is not in the cache yet.
pub fn fetch(profile: &Profile, lock: &Lock, sets: &[Set], cache: &Cache, ui: &Ui) -> Result<()> {
    let mut missing: Vec<&Artifact> = Vec::new();
    for artifact in lock.sets(sets) {
        if !cache.has_blob(&artifact.sha256, artifact.size)? {
            missing.push(artifact);
        }
    }
    if missing.is_empty() {
        return Ok(());
    }
    let _lock = cache.lock("fetch")?;
    let (compat32, native): (Vec<_>, Vec<_>) =
        missing.into_iter().partition(|artifact| artifact.arch == DEBIAN_ARCH32);
    if !native.is_empty() {
        Apt::open(cache, &profile.apt, &[&profile.vm.suite], &profile.arch, ui)?.fetch(cache, &native, ui)?;
    }
    if !compat32.is_empty() {
        Apt::open(cache, &profile.apt, &[], ARCH32, ui)?.fetch(cache, &compat32, ui)?;
    }
    Ok(())
}

fn names(list: &[String]) -> Vec<&str> {
    list.iter().map(String::as_str).collect()
}

/// The package with the image itself: the named one, or the one it depends on.
fn kernel_image(apt: &Apt, package: &str, suite: &str) -> Result<String> {
    let is_image = |name: &str| {
        name.strip_prefix(IMAGE_PREFIX)
            .is_some_and(|release| release.starts_with(|c: char| c.is_ascii_digit()))
    };
    if is_image(package) { Ok(package.to_owned()) } else { apt.dependency(package, IMAGE_PREFIX, suite) }
}

fn check_version(artifact: &Artifact, driver: &str) -> Result<()> {
    let upstream =
        artifact.version.rsplit_once('-').map_or(artifact.version.as_str(), |(upstream, _)| upstream);
    let upstream = upstream.rsplit_once(':').map_or(upstream, |(_, upstream)| upstream);
    if upstream == driver {
        return Ok(());
    }
    Err(Error::new(format!(
        "package {} has version {upstream}, the profile is for driver {driver}",
        artifact.name
    ))
    .hint("the archive has moved to another driver: set `driver` in a profile of your own (--profile FILE)"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_upstream_version_must_be_the_drivers_to_the_last_digit() {
        let artifact = |version: &str| Artifact {
            name: "x".into(),
            version: version.into(),
            arch: "amd64".into(),
            suite: "s".into(),
            size: 0,
            sha256: String::new(),
            sets: vec![],
        };
        assert!(check_version(&artifact("550.163.01-2"), "550.163.01").is_ok());
        assert!(check_version(&artifact("1:550.163.01-4~bpo13+1"), "550.163.01").is_ok());
        let error = check_version(&artifact("550.163.1-2"), "550.163.01").unwrap_err().to_string();
        assert!(error.contains("550.163.1") && error.contains("550.163.01"));
    }
}
