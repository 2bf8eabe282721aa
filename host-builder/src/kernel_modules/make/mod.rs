//! Builds NVIDIA's open kernel modules for a kernel, in the toolroot, reproducibly: with a fixed
//! user, host name, time and paths. The result is cached by the digest of all inputs.

mod built;
pub mod compile;
pub mod environment;
pub mod headers;
pub mod prebuilt;
pub mod release_archive;
pub mod sign;
pub mod source;
pub(crate) mod steps;

pub use built::{Built, facts};

use crate::artifacts::cache::Cache;
use crate::artifacts::tree::Tree;
use crate::common::digest::sha256;
use crate::common::error::Result;
use crate::common::halt::Halt;
use crate::common::ui::Ui;
use crate::pins::lock::{Lock, Set};
use crate::pins::profile::Modules;
use crate::programs::toolroot::Toolroot;
use compile::compile;
use environment::Workshop;
use headers::{Headers, headers_names};
use source::{apply, unpack_source};

/// Changed with every change of the build, so that old results are not reused.
const RECIPE: &str = "4";

/// The cache directory for built modules.
const ROOM: &str = "modules";

/// Builds the modules of the profile, or finds them in the cache. `toolroot` is called only to
/// build; `halt` ends it early.
pub fn build(
    cache: &Cache,
    lock: &Lock,
    profile: &Modules,
    toolroot: impl FnOnce() -> Result<Toolroot>,
    halt: &Halt,
    ui: &Ui,
) -> Result<Built> {
    let (key, package) = key(lock, profile)?;
    let dir = cache.derived(ROOM, &key, |out| {
        let toolroot = toolroot()?;
        halt.check()?;
        let work = cache.scratch()?;
        let headers = Headers::in_toolroot(&toolroot, &lock.kernel_release)?;
        let tree = source::locked(cache, lock, profile, &headers, work.path())?;
        compile(&Workshop::Toolroot(toolroot), &headers, work.path(), &tree, out, halt, ui)
    })?;
    Built::read(cache, dir, format!("built from {package}"))
}

/// The cached result of [`build`], if there is one.
pub fn made_here(cache: &Cache, lock: &Lock, profile: &Modules) -> Result<Option<Built>> {
    let (key, package) = key(lock, profile)?;
    let dir = cache.kept(ROOM, &key)?;
    dir.map(|dir| Built::read(cache, dir, format!("built from {package}"))).transpose()
}

/// The key of all inputs of the modules, and the package of their source.
fn key(lock: &Lock, profile: &Modules) -> Result<(String, String)> {
    let named = source::of_profile(profile, &lock.driver)?;
    let source = format!("{} {} {:?}", named.archive.unwrap_or_default(), named.subdir, profile.patch);
    let inputs = [
        RECIPE,
        &lock.kernel_release,
        &lock.driver,
        &lock.digest(&[Set::ModuleSource, Set::Toolroot]),
        &source,
    ];
    Ok((sha256(inputs.join("\n").as_bytes()), named.package.to_owned()))
}

/// Everything that the result of [`build`] depends on, as text: [`compile::recipe`] and the digest
/// of the toolroot's packages.
pub fn recipe(cache: &Cache, lock: &Lock, profile: &Modules, toolroot: Toolroot) -> Result<String> {
    let work = cache.scratch()?;
    let headers = Headers::in_toolroot(&toolroot, &lock.kernel_release)?;
    let tree = source::locked(cache, lock, profile, &headers, work.path())?;
    let text = compile::recipe(&Workshop::Toolroot(toolroot), &headers, work.path(), &tree)?;
    Ok(format!("{}\n{text}", lock.digest(&[Set::Toolroot])))
}

/// Checks whether the locked source can be built for the locked kernel, as far as possible without
/// compiling: the source has the layout of the profile, and the profile's patches apply. Source and
/// kernel headers must be in the cache.
pub fn check_source(cache: &Cache, lock: &Lock, profile: &Modules) -> Result<()> {
    let Some(named) = profile.source(&lock.driver) else { return Ok(()) };
    let source = Tree::of(cache, lock.package(Set::ModuleSource, named.package)?)?;
    let work = cache.scratch()?;
    let tree = unpack_source(&source, &named, work.path())?;
    if profile.patch.is_empty() {
        return Ok(());
    }
    let locked = lock.set(Set::Toolroot);
    let of_release = headers_names(&lock.kernel_release);
    let name = of_release.iter().find(|name| locked.iter().any(|artifact| artifact.name == **name));
    let name = name.unwrap_or(&of_release[0]);
    let headers = Tree::of(cache, lock.package(Set::Toolroot, name)?)?;
    let headers = headers.root.join("usr/src").join(name);
    profile.patch.iter().try_for_each(|patch| apply(patch, &tree, &headers))
}
