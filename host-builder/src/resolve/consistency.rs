//! Checks that the artifacts of a lock are of one kernel release and one driver version. Packages
//! have their versions in their names; for other artifacts, the content is checked.

use crate::artifacts::cache::Cache;
use crate::artifacts::tree::Tree;
use crate::common::error::{Error, Result};
use crate::common::files::base_name;
use crate::kernel_modules::check::check_built;
use crate::kernel_modules::firmware;
use crate::kernel_modules::make::Built;
use crate::kernel_modules::make::prebuilt;
use crate::pins::lock::{Lock, Set};
use crate::pins::profile::{Firmware, Profile};
use image::capability::version_of;
use std::collections::BTreeSet;

/// The only kernel release that the artifacts have modules for.
pub fn kernel_release(profile: &Profile, lock: &Lock, cache: &Cache) -> Result<String> {
    let trees = trees(lock, cache, &[Set::Kernel, Set::GpuModules])?;
    let releases = prebuilt::releases(&trees);
    if let Some(release) = &profile.kernel.release {
        return Ok(release.clone());
    }
    let mut releases = releases.into_iter();
    match (releases.next(), releases.next()) {
        (Some(release), None) => Ok(release),
        (None, _) => {
            Err(Error::new(format!("{}: expected lib/modules/RELEASE, found none", origins(&trees)))
                .hint("set the release of the kernel in the profile ([kernel] release)"))
        }
        (Some(one), Some(two)) => {
            let all: Vec<_> = [one, two].into_iter().chain(releases).collect();
            Err(Error::new(format!(
                "{}: expected modules of one kernel release, found {}",
                origins(&trees),
                all.join(", ")
            ))
            .hint("choose one in the profile ([kernel] release)"))
        }
    }
}

/// Checks that modules, libraries and firmware in artifacts belong to the lock's kernel and driver.
pub fn artifacts(profile: &Profile, lock: &Lock, cache: &Cache) -> Result<()> {
    let modules = trees(lock, cache, &[Set::GpuModules])?;
    let driver = trees(lock, cache, &[Set::Driver])?;
    if !driver.is_empty() {
        libraries(&driver, &lock.driver)?;
    }
    if modules.is_empty() {
        return Ok(());
    }
    let built = prebuilt::built(cache, &modules, &lock.kernel_release)?;
    built.modules.iter().try_for_each(|module| check_built(module, &lock.kernel_release, &lock.driver))?;
    // Packages are not available yet. They are checked when an image is planned.
    if matches!(profile.firmware, Some(Firmware::Packages { .. } | Firmware::Word(_))) {
        return Ok(());
    }
    let sources = [trees(lock, cache, &[Set::Firmware])?, driver, modules].concat();
    wanted(&built).iter().try_for_each(|name| match firmware::find(&sources, name) {
        Some(_) => Ok(()),
        None => Err(firmware::missing(&sources, name)),
    })
}

fn libraries(trees: &[Tree], driver: &str) -> Result<()> {
    let files = || trees.iter().flat_map(|tree| &tree.files);
    let name = format!("libcuda.so.{driver}");
    if files().any(|file| base_name(&file.path) == name) {
        return Ok(());
    }
    let versions: BTreeSet<_> = files()
        .filter_map(|file| version_of(base_name(&file.path)).map(|(_, version)| version.to_owned()))
        .collect();
    let versions = Vec::from_iter(versions).join(", ");
    let found =
        if versions.is_empty() { "no driver library".to_owned() } else { format!("libraries of {versions}") };
    Err(Error::new(format!("{}: expected {name}, found {found}", origins(trees))).hint(
        "modules, firmware and libraries must have exactly the same version: choose it with `pins update --driver`, or set `driver` in the profile",
    ))
}

fn wanted(built: &Built) -> BTreeSet<String> {
    built.modules.iter().flat_map(|module| module.firmware.clone()).collect()
}

fn trees(lock: &Lock, cache: &Cache, sets: &[Set]) -> Result<Vec<Tree>> {
    lock.sets(sets)
        .into_iter()
        .filter(|artifact| artifact.source != crate::pins::lock::SourceKind::Apt)
        .map(|artifact| Tree::of(cache, artifact))
        .collect()
}

fn origins(trees: &[Tree]) -> String {
    if trees.is_empty() {
        return "the profile's artifacts".into();
    }
    trees.iter().map(|tree| tree.origin.as_str()).collect::<Vec<_>>().join(", ")
}
