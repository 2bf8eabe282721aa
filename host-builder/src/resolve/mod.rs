//! Resolves a profile into a lock, and gets the artifacts of a lock into the cache.

mod choose;
mod consistency;
mod fetch;
mod headers;
pub mod sources;
pub mod suites;

pub use self::choose::{Choice, choose, is_of};
pub use self::fetch::{at_hand, fetch, get, in_mirror, missing, offers};
pub use self::headers::with_headers;

use crate::common::error::{Error, Result};
use crate::pins::lock::{Artifact, Digest, Lock, Set, SourceKind, upstream};
use crate::pins::profile::{Firmware, Profile, Values, pair};
use crate::programs::toolroot::Toolroot;
use sources::apt::{Apt, Packages, Scope};
use sources::file::FileSource;
use sources::host::HostSource;
use sources::http::Http;
use sources::redist::Redist;
use sources::{Access, Source, WantedArtifact};
use std::collections::BTreeSet;
use std::path::Path;
use std::thread::ScopedJoinHandle;
use suites::{ARCH32, strs};

const IMAGE_PREFIX: &str = "linux-image-";

/// Resolves all packages and artifacts of a profile. For packages, only lists are downloaded. Other
/// artifacts are downloaded completely, because there is no other source for their digests.
///
/// # Errors
/// Something cannot be had, does not fit, or the kernel and the driver are known not to work together.
pub fn resolve(profile: &Profile, text: &str, choice: &Choice, access: Access) -> Result<Lock> {
    pair::check_known(&profile.name)?;
    access.ui.line(format!("resolving profile {} for driver {} …", profile.name, choice.driver));
    let mut lock = Lock::new(&profile.name, text, String::new(), choice.driver.clone());
    lock.kernel.clone_from(&choice.kernel);
    add_artifacts(&mut lock, profile, access)?;
    if profile.apt.is_some() {
        add_packages(&mut lock, profile, choice, access)?;
    }
    if lock.kernel_release.is_empty() {
        lock.kernel_release = consistency::kernel_release(profile, &lock, access.cache)?;
    }
    consistency::artifacts(profile, &lock, access.cache)?;
    say_recorded(&lock, access);
    if lock.driver != profile.driver && profile.modules.package.is_some() {
        let headers = |artifact: &&Artifact| artifact.name.starts_with("linux-headers-");
        let needed = lock.set(Set::Toolroot).into_iter().filter(headers).chain(lock.set(Set::ModuleSource));
        fetch::get(profile, &lock, &needed.collect::<Vec<_>>(), access)?;
        crate::kernel_modules::make::check_source(access.cache, &lock, &profile.modules)?;
    }
    Ok(lock)
}

/// Reports digests that no publisher vouches for, so that they can be compared now.
fn say_recorded(lock: &Lock, access: Access) {
    for artifact in lock.artifact.iter().filter(|artifact| artifact.digest == Digest::Recorded) {
        access.ui.line(format!(
            "recorded: {} {}: its publisher provides no digest; the download has sha256 {}: compare it with a trusted source",
            artifact.name, artifact.version, artifact.sha256
        ));
    }
}

/// Resolves every non-package artifact from its source.
fn add_artifacts(lock: &mut Lock, profile: &Profile, access: Access) -> Result<()> {
    let (driver, kernel) = (lock.driver.clone(), lock.kernel.clone());
    let values = Values { driver: &driver, kernel: kernel.as_deref(), arch: &profile.arch };
    for kind in [SourceKind::Http, SourceKind::Redist, SourceKind::File, SourceKind::Host] {
        let of_kind = profile.artifact.iter().filter(|artifact| artifact.kind() == kind);
        let wanted: Vec<_> = of_kind.map(|artifact| WantedArtifact { artifact, values }).collect();
        if wanted.is_empty() {
            continue;
        }
        let pinned = match kind {
            SourceKind::Http => Http::new(access)?.resolve(wanted.clone())?,
            SourceKind::Redist => Redist::new(access)?.resolve(wanted.clone())?,
            SourceKind::File => FileSource::new(access, &profile.directory).resolve(wanted.clone())?,
            _ => HostSource::new(access, profile.kernel.release.as_deref()).resolve(wanted.clone())?,
        };
        for (wanted, artifact) in wanted.iter().zip(pinned) {
            for set in &wanted.artifact.sets {
                lock.add(*set, vec![artifact.clone()]);
            }
        }
    }
    Ok(())
}

/// Resolves packages. The 32-bit ones have their own package lists, and are resolved in parallel.
fn add_packages(lock: &mut Lock, profile: &Profile, choice: &Choice, access: Access) -> Result<()> {
    // Two processes that each hold the state of one archive would wait for each other.
    let _one_at_a_time = access.cache.lock("resolve")?;
    let compat32 = profile.userspace.iter().filter(|(_, group)| !group.compat32.is_empty());
    let compat32: Groups = compat32.map(|(of, group)| (Set::Compat32(*of), &group.compat32)).collect();
    let (host, driver) = (suites::host(profile, &choice.driver)?, suites::driver(profile, &choice.driver)?);
    let from32 = suites::compat32(profile, &choice.driver)?;
    let (host, driver, from32) = (&host, &driver, &from32);
    let is_another = profile.driver_apt.is_some();
    std::thread::scope(|scope| {
        let open = |from, arch| scope.spawn(move || Apt::open(access, from, arch));
        let apt32 = (!compat32.is_empty()).then(|| open(from32, ARCH32));
        let of_driver = is_another.then(|| open(driver, &profile.arch));
        let host = Apt::open(access, host, &profile.arch)?;
        let of_driver = of_driver.map(joined).transpose()?;
        let of_driver = of_driver.as_ref().unwrap_or(&host);
        let choice = &choice.settled(profile, of_driver)?;
        add_native(lock, profile, choice, &host, of_driver)?;
        if let Some(apt32) = apt32 {
            let found = joined(apt32).and_then(|apt| userspace(&compat32, &apt, &from32.apt.suite, choice));
            match found {
                Ok(artifacts) => add_to_groups(lock, &compat32, &artifacts),
                // Many mirrors have no 32-bit packages, and hardly anybody needs them.
                Err(error) => access.ui.line(format!(
                    "the lock has no 32-bit packages, and images no capability compat32: {error}"
                )),
            }
        }
        Ok(())
    })
}

/// Resolves the packages of the profile's own architecture. Once the kernel is known, all queries
/// run in parallel.
fn add_native(lock: &mut Lock, profile: &Profile, choice: &Choice, apt: &Apt, driver: &Apt) -> Result<()> {
    let (suite, of_driver) = (profile.apt()?.suite.as_str(), profile.driver_apt()?.suite.as_str());
    if let Some(package) = &profile.kernel.package {
        let image = kernel_image(apt, package, suite)?;
        image.trim_start_matches(IMAGE_PREFIX).clone_into(&mut lock.kernel_release);
        let more = profile.kernel.more_packages.iter();
        let names: Vec<_> =
            more.map(|name| name.replace("{release}", &lock.kernel_release)).chain([image]).collect();
        lock.add(Set::Kernel, exact(apt, &names, suite)?);
    }
    let firmware = match &profile.firmware {
        Some(Firmware::Packages { packages }) => packages.as_slice(),
        _ => &[],
    };
    let driver_sets = [(Set::Firmware, firmware), (Set::ModuleSource, profile.modules.package.as_slice())];
    let groups: Groups =
        profile.userspace.iter().map(|(of, group)| (Set::Userspace(*of), &group.packages)).collect();
    let closures = closures(profile, suite, &lock.kernel_release);
    std::thread::scope(|scope| {
        let driver_sets = driver_sets.into_iter().filter(|(_, packages)| !packages.is_empty());
        let driver_sets: Vec<_> = driver_sets
            .map(|(set, packages)| (set, scope.spawn(|| exact(driver, &choice.pin(packages), of_driver))))
            .collect();
        let userspace = scope.spawn(|| userspace(&groups, driver, of_driver, choice));
        let closures = closures.iter().map(|(set, names, suite)| {
            let names = || strs(names);
            (
                *set,
                scope.spawn(move || apt.resolve(Packages { names: &names(), scope: Scope::Closure, suite })),
            )
        });
        let closures: Vec<_> = closures.collect();
        for (set, artifacts) in driver_sets {
            let artifacts = joined(artifacts)?;
            artifacts.iter().try_for_each(|artifact| check_version(artifact, &choice.driver))?;
            lock.add(set, artifacts);
        }
        add_to_groups(lock, &groups, &joined(userspace)?);
        for (set, artifacts) in closures {
            lock.add(set, joined(artifacts)?);
        }
        Ok(())
    })
}

/// Sets for the host, with all dependencies: the packages and the preferred suite.
fn closures<'a>(profile: &'a Profile, suite: &'a str, release: &str) -> Vec<(Set, Vec<String>, &'a str)> {
    let headers = format!("linux-headers-{release}");
    let toolroot = profile.toolroot.iter().map(|toolroot| {
        let names = toolroot.packages.iter().chain([&headers]).cloned().collect();
        (Set::Toolroot, names, suite)
    });
    let payload = profile.payload.iter().map(|payload| (Set::Payload, payload.packages.clone(), suite));
    let vm = profile.vm.iter().map(|vm| (Set::Vm, vm.packages.clone(), vm.suite.as_str()));
    toolroot.chain(payload).chain(vm).collect()
}

fn exact(apt: &Apt, names: &[String], suite: &str) -> Result<Vec<Artifact>> {
    apt.resolve(Packages { names: &strs(names), scope: Scope::Exact, suite })
}

fn joined<T>(thread: ScopedJoinHandle<'_, T>) -> T {
    thread.join().expect("asking apt does not panic")
}

/// Sets, and the packages of each.
type Groups<'a> = Vec<(Set, &'a Vec<String>)>;

/// Resolves the packages of all capabilities in one query. They are not checked for the driver's
/// version: some have other version numbers, and libraries are checked file by file.
fn userspace(groups: &Groups, apt: &Apt, suite: &str, choice: &Choice) -> Result<Vec<Artifact>> {
    let all: BTreeSet<&String> = groups.iter().flat_map(|(_, packages)| packages.iter()).collect();
    if all.is_empty() {
        return Ok(Vec::new());
    }
    let all: Vec<String> = all.into_iter().cloned().collect();
    exact(apt, &choice.pin(&all), suite)
}

/// Adds each of these artifacts to the sets that contain its package.
fn add_to_groups(lock: &mut Lock, groups: &Groups, artifacts: &[Artifact]) {
    for (set, packages) in groups {
        let of_set = artifacts.iter().filter(|artifact| packages.contains(&artifact.name));
        lock.add(*set, of_set.cloned().collect());
    }
}

/// The package that contains the kernel image: the given one, or its dependency.
fn kernel_image(apt: &Apt, package: &str, suite: &str) -> Result<String> {
    let is_image = |name: &str| {
        name.strip_prefix(IMAGE_PREFIX)
            .is_some_and(|release| release.starts_with(|c: char| c.is_ascii_digit()))
    };
    if is_image(package) { Ok(package.to_owned()) } else { apt.dependency(package, IMAGE_PREFIX, suite) }
}

fn check_version(artifact: &Artifact, driver: &str) -> Result<()> {
    let found = upstream(&artifact.version);
    if found == driver {
        return Ok(());
    }
    Err(Error::new(format!("package {} has version {found}, but the profile is for driver {driver}", artifact.name))
        .hint("the archive has moved to another driver: choose it with `pins update --driver VERSION`, or set `driver` in a profile of your own"))
}
/// Reads the lock at `path`. Resolves the profile if there is no lock, or if `update` is set.
pub fn lock_of(path: &Path, update: bool, profile: &Profile, text: &str, access: Access) -> Result<Lock> {
    let present = Lock::read(path);
    if update {
        // An unreadable lock is replaced.
        let choice = choose(profile, None, None, present.ok().flatten().as_ref(), access)?;
        return resolve(profile, text, &choice, access);
    }
    let Some(lock) = present? else {
        return resolve(profile, text, &choose(profile, None, None, None, access)?, access);
    };
    lock.check_profile(&profile.name, text, path)?;
    if !is_of(&lock.driver, &profile.driver) {
        access.ui.line(format!(
            "driver {}, from {} (the profile has {})",
            lock.driver,
            path.display(),
            profile.driver
        ));
    }
    Ok(lock)
}

/// Fetches and unpacks the toolroot of a lock. Fetches the modules' source, too.
pub fn toolroot_of(profile: &Profile, lock: &Lock, access: Access) -> Result<Toolroot> {
    fetch(profile, lock, &[Set::Toolroot, Set::ModuleSource], access)?;
    let links = profile.toolroot.as_ref().map(|toolroot| toolroot.links.clone()).unwrap_or_default();
    Toolroot::of(access.cache, lock, Set::Toolroot, &links, access.ui)
}
