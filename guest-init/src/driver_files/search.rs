//! Where a container's loader may find libraries.

use super::destination::{Loader, Places};
use super::request::ContainerRequest;
use crate::confined_fs::RootDir;
use crate::ldcache;
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

/// Where device plugins of clusters put a node's driver, and where some images search for it.
const CLUSTER_DIRS: [&str; 2] = ["/usr/local/nvidia/lib", "/usr/local/nvidia/lib64"];

/// Returns the directories in which a container's loader may find libraries, each with its glibc-hwcaps subdirectories.
pub(super) fn searched(root: &RootDir, places: &Places, request: &ContainerRequest) -> Vec<PathBuf> {
    let library_path = request.library_path.as_deref().unwrap_or_default().as_bytes();
    let listed = library_path.split(|b| matches!(b, b':' | b';')).filter(|dir| dir.starts_with(b"/"));
    let mut dirs: Vec<PathBuf> = listed.map(|dir| OsStr::from_bytes(dir).into()).collect();
    dirs.extend(request.rpath(root));
    dirs.extend(request.runpath(root));
    match &places.loader {
        Loader::Glibc(platform) => dirs.extend(ldcache::search_directories(root, platform)),
        Loader::Musl => dirs.extend(super::musl::search_path(root)),
        Loader::Store => {}
    }
    dirs.extend(places.libraries.iter().cloned());
    dirs.extend(places.libraries32.clone());
    dirs.extend(places.libraries.iter().chain(&places.libraries32).map(|dir| dir.join("vdpau")));
    dirs.extend(CLUSTER_DIRS.map(PathBuf::from));
    let mut seen = BTreeSet::new();
    dirs.retain(|dir| seen.insert(dir.clone()));
    dirs
}
