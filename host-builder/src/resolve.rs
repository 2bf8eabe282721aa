//! From intent to facts: resolves a profile into a lock, and gets what a lock names into the cache.

use crate::cache::Cache;
use crate::error::{Error, Result};
use crate::lock::{Artifact, Lock, Set};
use crate::profile::Profile;
use crate::source::apt::{Apt, Scope};
use crate::ui::Ui;

const IMAGE_PREFIX: &str = "linux-image-";

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
        (Set::Userspace, names(&profile.userspace.packages)),
        (Set::Firmware, names(&profile.firmware.packages)),
        (Set::ModuleSource, vec![profile.modules.package.as_str()]),
    ] {
        let artifacts = apt.resolve(&names, Scope::Exact, suite)?;
        // nvidia-modprobe and its like are versioned apart from the driver; libraries are checked file by file.
        if set != Set::Userspace {
            artifacts.iter().try_for_each(|artifact| check_version(artifact, &profile.driver))?;
        }
        lock.add(set, artifacts);
    }
    let headers = format!("linux-headers-{release}");
    let mut tools = names(&profile.toolroot.packages);
    tools.push(&headers);
    lock.add(Set::Toolroot, apt.resolve(&tools, Scope::Closure, suite)?);
    lock.add(Set::Vm, apt.resolve(&names(&profile.vm.packages), Scope::Closure, &profile.vm.suite)?);
    Ok(lock)
}

/// Fetches what is not in the cache yet.
pub fn fetch(profile: &Profile, lock: &Lock, sets: &[Set], cache: &Cache, ui: &Ui) -> Result<()> {
    let mut missing: Vec<&Artifact> = Vec::new();
    for artifact in &lock.artifact {
        if artifact.sets.iter().any(|set| sets.contains(set))
            && !cache.has_blob(&artifact.sha256, artifact.size)?
        {
            missing.push(artifact);
        }
    }
    if missing.is_empty() {
        return Ok(());
    }
    let _lock = cache.lock("fetch")?;
    Apt::open(cache, &profile.apt, &[&profile.vm.suite], &profile.arch, ui)?.fetch(cache, &missing, ui)
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
