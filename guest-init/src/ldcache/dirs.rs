//! The directories to scan: those of ld.so.conf, then those built in, each once, each followed by its
//! glibc-hwcaps subdirectories. Subdirectories for special hardware come last, in the order in which
//! they are found.

use std::collections::HashMap;
use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use super::conf::{self, ConfDir};
use super::hwcap::LegacyHwcaps;
use super::platform::Platform;
use super::rules::Rules;
use super::{CacheReport, join};
use crate::confined_fs::{EntryType, RootDir};

/// Maximum number of glibc-hwcaps subdirectories. glibc knows four.
const MAX_HWCAPS: usize = 256;
/// Maximum number of directories.
const MAX_DIRS: usize = 8192;

/// A directory to scan.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct ScanDir {
    /// Path as written in the configuration, which becomes part of the cache.
    pub path: OsString,
    /// For a glibc-hwcaps subdirectory, its name.
    pub hwcaps: Option<Vec<u8>>,
    /// The declared kind of its libraries.
    pub kind: Option<i32>,
}

/// The directories to scan.
#[derive(Debug)]
pub(super) struct Directories {
    /// In the search order of the loader.
    pub list: Vec<ScanDir>,
    /// The glibc-hwcaps subdirectories seen, including second names of the same directory. `ldconfig` keeps all of these names
    /// in the cache.
    pub hwcaps: Vec<Vec<u8>>,
    /// The names of subdirectories for special hardware.
    pub legacy: LegacyHwcaps,
    /// Directories seen, by device and inode: a directory with two names is scanned once, under the first.
    seen: HashMap<(u64, u64), usize>,
}

/// Collects the directories of `root`.
pub(super) fn collect(
    root: &RootDir,
    platform: &Platform,
    rules: &Rules,
    report: &mut CacheReport,
) -> Directories {
    let legacy = LegacyHwcaps::of(platform.machine);
    let conf = conf::read(root, &platform.conf(), legacy, rules, report);
    let built_in = platform.system_dirs.iter().map(|dir| ConfDir { path: dir.into(), kind: None });
    let mut dirs =
        Directories { list: Vec::new(), hwcaps: Vec::new(), legacy: conf.hwcaps, seen: HashMap::new() };
    for ConfDir { path, kind } in conf.directories.into_iter().chain(built_in) {
        let base = path.clone();
        if dirs.add(root, ScanDir { path, hwcaps: None, kind }) && rules.glibc_hwcaps {
            dirs.add_hwcaps(root, base, kind);
        }
    }
    dirs
}

impl Directories {
    /// Adds a directory unless it is present under another name. Returns whether it was added.
    fn add(&mut self, root: &RootDir, dir: ScanDir) -> bool {
        let Ok(stat) = root.stat(Path::new(&dir.path)) else { return false };
        if stat.kind != EntryType::Directory || self.list.len() == MAX_DIRS {
            return false;
        }
        if let Some(&index) = self.seen.get(&(stat.dev, stat.ino)) {
            // The later line declares the kind of libraries.
            self.list[index].kind = dir.kind;
            return false;
        }
        self.seen.insert((stat.dev, stat.ino), self.list.len());
        self.list.push(dir);
        true
    }

    fn add_hwcaps(&mut self, root: &RootDir, mut base: OsString, kind: Option<i32>) {
        base.push("/glibc-hwcaps");
        let Ok(entries) = root.list(Path::new(&base)) else { return };
        for entry in entries {
            let name = entry.name.as_bytes();
            // The loader uses a list of names separated by colons.
            if name.starts_with(b".") || name.contains(&b':') || entry.kind == EntryType::File {
                continue;
            }
            let path = join(&base, &entry.name);
            let is_dir = root.stat(&path).is_ok_and(|stat| stat.kind == EntryType::Directory);
            if !is_dir || self.hwcaps.len() == MAX_HWCAPS {
                continue;
            }
            let name = entry.name.into_vec();
            self.hwcaps.push(name.clone());
            self.add(root, ScanDir { path: path.into_os_string(), hwcaps: Some(name), kind });
        }
    }

    /// Adds the subdirectories of the directory at `index` that are for special hardware.
    pub fn add_legacy(&mut self, root: &RootDir, index: usize, names: Vec<OsString>) {
        let ScanDir { path, kind, .. } = self.list[index].clone();
        for name in names {
            let path = join(&path, &name).into_os_string();
            self.add(root, ScanDir { path, hwcaps: None, kind });
        }
    }
}
