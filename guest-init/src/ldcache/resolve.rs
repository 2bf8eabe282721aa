//! Finds the file that the loader of a root would open for a SONAME, after the driver files are in place: a stale copy of
//! libcuda.so.1 that comes first is the most common reason why CUDA does not start.
//!
//! The loader searches LD_LIBRARY_PATH, the RUNPATH of the requesting program, the cache, and its built-in directories. In
//! each of these, copies for newer processors (glibc-hwcaps) come before the plain one, and the choice depends on the
//! processor. So the result is the file for the most basic processor, with every copy that another processor would use
//! instead.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use image::ldcache::{CacheContent, Entry};
use serde::Serialize;

use super::machine::Machine;
use super::platform::Platform;
use super::{MAX_CACHE, binary_strings, compare_names, join, read};
use crate::confined_fs::RootDir;

/// Maximum number of copies recorded.
const MAX_VARIANTS: usize = 64;
/// Set in `hwcap` of a glibc-hwcaps entry.
const HWCAP_EXTENSION: u64 = 1 << 62;
/// The bits of `tls` and `x86_64`, which every processor of that machine has.
const ON_ANY: u64 = 1 << 63 | 1 << 1;

/// How a library was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Via {
    /// The name has a slash, so it is a path and no directory is searched.
    Path,
    /// A directory of `LD_LIBRARY_PATH`.
    LibraryPath,
    /// A directory of the obsolete RPATH, which comes before all others.
    Rpath,
    /// A directory of the RUNPATH.
    Runpath,
    /// The cache.
    Cache,
    /// A directory built into the loader.
    DefaultDirectory,
}

/// The search settings of a program.
#[derive(Debug, Clone, Copy, Default)]
pub struct SearchSettings<'a> {
    /// The value of its `LD_LIBRARY_PATH`.
    pub library_path: Option<&'a OsStr>,
    /// The directories of the RPATH of a program without RUNPATH, expanded like those.
    pub rpath: &'a [PathBuf],
    /// The directories of the RUNPATH, with `$ORIGIN` and other tokens expanded.
    pub runpath: &'a [PathBuf],
    /// The machine of the program.
    pub machine: Machine,
    /// The platform of that machine, if known already.
    pub platform: Option<&'a Platform>,
}

/// A copy of the library for newer processors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Variant {
    /// The path that is opened.
    pub path: PathBuf,
    /// The file, with links resolved.
    pub file: PathBuf,
    /// Its hardware: the glibc-hwcaps subdirectory, such as `x86-64-v3`, or until glibc 2.36 one such as `haswell`.
    pub hwcaps: String,
}

/// The file that the loader would open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolved {
    /// The path that it opens on the most basic processor.
    pub path: PathBuf,
    /// The file, with links resolved.
    pub file: PathBuf,
    /// How it finds the path.
    pub via: Via,
    /// Copies that newer processors would use instead, in the order of the loader.
    pub variants: Vec<Variant>,
}

/// Finds the file that a program in `root` opens for `soname`. Returns `None` also if only a copy for newer processors
/// exists, since the result then depends on the processor.
pub fn resolve(root: &RootDir, soname: &str, request: &SearchSettings<'_>) -> Option<Resolved> {
    let known = request.platform.cloned();
    let platform = known.or_else(|| Platform::detect_for(root, request.machine));
    let platform = platform.unwrap_or_else(|| Platform { machine: request.machine, ..Platform::default() });
    let mut search = Search { root, platform: &platform, soname, variants: Vec::new() };
    let (path, via) = search.run(request)?;
    let file = root.canonical(&path).ok()?;
    Some(Resolved { path, file, via, variants: search.variants })
}

struct Search<'a> {
    root: &'a RootDir,
    platform: &'a Platform,
    soname: &'a str,
    variants: Vec<Variant>,
}

impl Search<'_> {
    fn run(&mut self, request: &SearchSettings<'_>) -> Option<(PathBuf, Via)> {
        if self.soname.contains('/') {
            let path = PathBuf::from(self.soname);
            return self.opens(&path).then_some((path, Via::Path));
        }
        let listed = library_path(request.library_path.unwrap_or_default(), self.platform);
        let listed = listed.iter().map(|dir| (dir.as_path(), Via::LibraryPath));
        let rpath = request.rpath.iter().map(|dir| (dir.as_path(), Via::Rpath));
        let runpath = request.runpath.iter().map(|dir| (dir.as_path(), Via::Runpath));
        for (dir, via) in rpath.chain(listed).chain(runpath) {
            if let Some(path) = self.in_directory(dir) {
                return Some((path, via));
            }
        }
        if let Some(path) = self.in_cache() {
            return Some((path, Via::Cache));
        }
        let dirs = &self.platform.loader_dirs;
        dirs.iter().find_map(|dir| self.in_directory(dir)).map(|path| (path, Via::DefaultDirectory))
    }

    /// Returns the plain copy in `dir`, and records the others.
    fn in_directory(&mut self, dir: &Path) -> Option<PathBuf> {
        for (subdirectory, on_any) in subdirectories(self.platform) {
            // Joining an empty name would leave a trailing slash.
            let base = if subdirectory.is_empty() { dir.to_owned() } else { dir.join(&subdirectory) };
            let path = join(base.as_os_str(), OsStr::new(self.soname));
            if !on_any {
                self.note(path, subdirectory.trim_start_matches("glibc-hwcaps/"));
            } else if self.opens(&path) {
                return Some(path);
            }
        }
        None
    }

    fn in_cache(&mut self) -> Option<PathBuf> {
        let bytes = self.root.read(&self.platform.cache, MAX_CACHE).ok()?;
        let cache = read(&bytes).ok()?;
        let machine = self.platform.machine;
        let found = search(&cache, self.soname.as_bytes(), |entry| machine.takes(entry.flags));
        // The order of the cache is not the loader's preference.
        for name in machine.hwcaps().iter().filter(|_| knows_hwcaps(self.platform)) {
            let entries = found.iter().filter(|entry| entry.hwcaps == Some(name.as_bytes()));
            entries.for_each(|entry| self.note(path_of(entry), name));
        }
        for entry in found.iter().filter(|_| knows_legacy(self.platform)) {
            let path = path_of(entry);
            if entry.hwcap & !ON_ANY == 0 {
                return self.opens(&path).then_some(path);
            }
            if entry.hwcap & HWCAP_EXTENSION == 0 {
                let name = path.parent().and_then(Path::file_name).unwrap_or_default().to_string_lossy();
                self.note(path.clone(), &name);
            }
        }
        let path = path_of(found.iter().find(|entry| entry.hwcap == 0)?);
        self.opens(&path).then_some(path)
    }

    fn note(&mut self, path: PathBuf, hwcaps: &str) {
        if self.variants.len() < MAX_VARIANTS
            && self.opens(&path)
            && let Ok(file) = self.root.canonical(&path)
        {
            self.variants.push(Variant { path, file, hwcaps: hwcaps.to_owned() });
        }
    }

    /// Returns whether the loader opens this file. It skips libraries for other machines, but opens a file that is not a library,
    /// and fails.
    fn opens(&self, path: &Path) -> bool {
        binary_strings::is_taken(self.root, path, self.platform.machine)
    }
}

fn path_of(entry: &Entry) -> PathBuf {
    PathBuf::from(OsStr::from_bytes(entry.value))
}

/// Returns whether the loader knows glibc-hwcaps directories, as since glibc 2.33.
fn knows_hwcaps(platform: &Platform) -> bool {
    platform.glibc.is_none_or(|version| version >= (2, 33))
}

/// Returns whether the loader knows directories named after hardware, as until glibc 2.36.
fn knows_legacy(platform: &Platform) -> bool {
    platform.machine == Machine::X86_64 && platform.glibc.is_some_and(|version| version < (2, 37))
}

/// Returns the subdirectories that the loader tries in each directory, in its order, the directory itself last, and whether
/// it does so on any processor.
fn subdirectories(platform: &Platform) -> Vec<(String, bool)> {
    let hwcaps = platform.machine.hwcaps().iter().filter(|_| knows_hwcaps(platform));
    let mut all: Vec<_> = hwcaps.map(|name| (format!("glibc-hwcaps/{name}"), false)).collect();
    if knows_legacy(platform) {
        for tls in ["tls/", ""] {
            for special in ["haswell/", "xeon_phi/", "haswell/avx512_1/", "xeon_phi/avx512_1/", ""] {
                for x86_64 in ["x86_64/", ""] {
                    all.push((
                        format!("{tls}{special}{x86_64}").trim_end_matches('/').into(),
                        special.is_empty(),
                    ));
                }
            }
        }
    } else {
        all.push((String::new(), true));
    }
    all
}

/// Returns the directories of `LD_LIBRARY_PATH`, with `$LIB` expanded. Directories that depend on the program or its working
/// directory are unknown here and left out.
fn library_path(value: &OsStr, platform: &Platform) -> Vec<PathBuf> {
    let own = platform.loader_dirs.first();
    let lib = own.map(|dir| match dir.parent().filter(|_| dir.ends_with(platform.machine.triplet())) {
        Some(lib) => Path::new(lib.file_name().unwrap_or_default()).join(dir.file_name().unwrap_or_default()),
        None => PathBuf::from(dir.file_name().unwrap_or_default()),
    });
    let lib = lib.unwrap_or_default().to_string_lossy().into_owned();
    let parts = value.as_bytes().split(|byte| matches!(byte, b':' | b';'));
    parts
        .filter(|part| !part.is_empty())
        .filter_map(|part| {
            let Some(text) = std::str::from_utf8(part).ok().filter(|text| text.contains('$')) else {
                return Some(PathBuf::from(OsStr::from_bytes(part)));
            };
            let text = text.replace("${LIB}", &lib).replace("$LIB", &lib);
            (!text.contains('$')).then(|| text.into())
        })
        .collect()
}

/// Returns all entries for `name` that `wanted` accepts. Uses the loader's binary search, so that entries in a wrong order
/// are missed here too.
fn search<'a>(
    cache: &'a CacheContent<'a>,
    name: &[u8],
    wanted: impl Fn(&Entry) -> bool,
) -> Vec<&'a Entry<'a>> {
    let entries = &cache.entries;
    let is = |index: usize| entries.get(index).is_some_and(|entry| compare_names(name, entry.key).is_eq());
    let (mut left, mut right) = (0, entries.len());
    while left < right {
        let middle = left + (right - left - 1) / 2;
        match compare_names(name, entries[middle].key) {
            std::cmp::Ordering::Less => left = middle + 1,
            std::cmp::Ordering::Greater => right = middle,
            std::cmp::Ordering::Equal => {
                let first = (0..middle).rev().take_while(|index| is(*index)).last().unwrap_or(middle);
                let all = (first..entries.len()).take_while(|index| is(*index)).map(|index| &entries[index]);
                return all.filter(|entry| wanted(entry)).collect();
            }
        }
    }
    Vec::new()
}
