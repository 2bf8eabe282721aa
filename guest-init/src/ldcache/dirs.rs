//! The directories to scan: those of ld.so.conf, then those built in, each once, each followed by its
//! glibc-hwcaps subdirectories.

use std::collections::HashSet;
use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use super::platform::Platform;
use super::{CacheReport, conf};
use crate::rootfs::{Kind, RootDir};

/// glibc-hwcaps subdirectories over all. glibc knows four.
const MAX_HWCAPS: usize = 256;

/// A directory to scan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ScanDir {
    /// As it is written in the configuration: so it becomes part of the cache.
    pub path: OsString,
    /// For a glibc-hwcaps subdirectory, its name.
    pub hwcaps: Option<Vec<u8>>,
}

/// What there is to scan.
#[derive(Debug, Default)]
pub(super) struct Directories {
    /// In the order in which the loader shall find them.
    pub list: Vec<ScanDir>,
    /// The glibc-hwcaps subdirectories seen, also those that are another one by a second name. `ldconfig`
    /// leaves all of these names in the cache.
    pub hwcaps: Vec<Vec<u8>>,
    /// Device and inode: a directory with two names is scanned once, under the first.
    seen: HashSet<(u64, u64)>,
}

/// Collects the directories of `root`.
pub(super) fn collect(root: &RootDir, platform: &Platform, report: &mut CacheReport) -> Directories {
    let mut paths = conf::directories(root, report);
    paths.extend(platform.system_dirs.iter().map(|dir| dir.clone().into_os_string()));
    let mut dirs = Directories::default();
    for path in paths {
        let Ok(stat) = root.stat(Path::new(&path)) else { continue };
        if stat.kind == Kind::Directory && dirs.seen.insert((stat.dev, stat.ino)) {
            dirs.list.push(ScanDir { path: path.clone(), hwcaps: None });
            dirs.add_hwcaps(root, path);
        }
    }
    dirs
}

impl Directories {
    fn add_hwcaps(&mut self, root: &RootDir, mut base: OsString) {
        base.push("/glibc-hwcaps");
        let Ok(entries) = root.list(Path::new(&base)) else { return };
        for entry in entries {
            let name = entry.name.as_bytes();
            // The loader takes a list of names separated by colons.
            if name.starts_with(b".") || name.contains(&b':') || entry.kind == Kind::File {
                continue;
            }
            let path = super::join(&base, &entry.name);
            let Ok(stat) = root.stat(&path) else { continue };
            if stat.kind != Kind::Directory || self.hwcaps.len() == MAX_HWCAPS {
                continue;
            }
            let name = entry.name.into_vec();
            self.hwcaps.push(name.clone());
            if self.seen.insert((stat.dev, stat.ino)) {
                self.list.push(ScanDir { path: path.into_os_string(), hwcaps: Some(name) });
            }
        }
    }
}
