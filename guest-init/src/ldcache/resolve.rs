//! Which file the loader of a root would open for a SONAME. Asked after the driver's files are in place: a
//! stale copy of libcuda.so.1 that comes first is the most common reason why CUDA does not start.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use image::elf;
use serde::Serialize;

use super::compare_names;
use super::platform::{MAX_LIBRARY, Platform};
use super::{CACHE, Entry, MAX_CACHE, join, read};
use crate::rootfs::RootDir;

/// How a library was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Via {
    /// A directory of `LD_LIBRARY_PATH`.
    LibraryPath,
    /// The cache.
    Cache,
    /// A directory built into the loader.
    DefaultDirectory,
}

/// What the loader would open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolved {
    /// The path that it opens.
    pub path: PathBuf,
    /// The file behind it, without links.
    pub file: PathBuf,
    /// How it gets there.
    pub via: Via,
}

/// Finds the file that a program in `root` gets for `soname`. `library_path` is the value of its
/// `LD_LIBRARY_PATH`. glibc-hwcaps directories are left out, since they depend on the processor and the
/// driver has none.
pub fn resolve(root: &RootDir, soname: &str, library_path: Option<&OsStr>) -> Option<Resolved> {
    let platform = Platform::detect(root).unwrap_or_default();
    let open = |path: PathBuf, via| open_library(root, &platform, path, via);
    let listed = library_path.map(OsStr::as_bytes).unwrap_or_default();
    for dir in listed.split(|b| matches!(b, b':' | b';')).filter(|d| !d.is_empty()) {
        if let Some(found) = open(join(OsStr::from_bytes(dir), OsStr::new(soname)), Via::LibraryPath) {
            return Some(found);
        }
    }
    let bytes = root.read(Path::new(CACHE), MAX_CACHE).unwrap_or_default();
    let cached = read(&bytes).ok();
    let flags = platform.machine.native_flags();
    let entry = cached.as_ref().and_then(|cache| search(&cache.entries, soname.as_bytes(), flags));
    if let Some(entry) = entry
        && let Some(found) = open(OsStr::from_bytes(entry.value).into(), Via::Cache)
    {
        return Some(found);
    }
    let mut dirs = platform.system_dirs.iter();
    dirs.find_map(|dir| open(dir.join(soname), Via::DefaultDirectory))
}

/// The loader's binary search, not a scan: entries in a wrong order are missed here too.
fn search<'a>(entries: &'a [Entry<'a>], name: &[u8], flags: i32) -> Option<&'a Entry<'a>> {
    let start = entries.partition_point(|e| compare_names(e.key, name).is_gt());
    let equal = entries[start..].iter().take_while(|e| compare_names(e.key, name).is_eq());
    equal.into_iter().find(|e| e.flags == flags && e.hwcap == 0)
}

fn open_library(root: &RootDir, platform: &Platform, path: PathBuf, via: Via) -> Option<Resolved> {
    let file = root.open_file(&path, MAX_LIBRARY).ok()?;
    let elf = elf::read(&file).ok()?;
    // The loader passes over libraries for another machine.
    if platform.machine.flags(&elf) != Some(platform.machine.native_flags()) {
        return None;
    }
    Some(Resolved { file: root.canonical(&path).ok()?, path, via })
}
