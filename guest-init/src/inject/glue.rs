//! Stand-ins until the loader cache knows these.
use crate::ldcache::{LdCacheError, Machine, Platform};
use crate::rootfs::RootDir;
use std::path::{Path, PathBuf};

pub fn detect_for(_root: &RootDir, _machine: Machine) -> Option<Platform> {
    None
}
pub fn is_default_dir(platform: &Platform, _root: &RootDir, dir: &Path) -> bool {
    platform.system_dirs.iter().any(|d| d == dir)
}
pub fn keep_directories(
    _root: &RootDir,
    _platform: &Platform,
    _compat: Option<&Path>,
    _dir: Option<&Path>,
) -> Result<bool, LdCacheError> {
    Ok(false)
}
pub fn search_directories(_root: &RootDir, platform: &Platform) -> Vec<PathBuf> {
    platform.system_dirs.clone()
}
