//! What the injector asks of the loader cache.
use crate::ldcache::{self, LdCacheError, Machine, Platform};
use crate::rootfs::RootDir;
use std::path::{Path, PathBuf};

pub fn detect_for(root: &RootDir, machine: Machine) -> Option<Platform> {
    Platform::detect_for(root, machine)
}
pub fn is_default_dir(platform: &Platform, root: &RootDir, dir: &Path) -> bool {
    platform.is_default_dir(root, dir)
}
pub fn keep_directories(
    root: &RootDir,
    platform: &Platform,
    compat: Option<&Path>,
    dir: Option<&Path>,
) -> Result<bool, LdCacheError> {
    let dirs: Vec<&Path> = compat.into_iter().chain(dir).collect();
    ldcache::keep_directories(root, platform, &dirs)
}
pub fn search_directories(root: &RootDir, platform: &Platform) -> Vec<PathBuf> {
    ldcache::search_directories(root, platform)
}
