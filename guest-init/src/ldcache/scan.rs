//! Scans one directory for libraries and their names.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use super::dirs::ScanDir;
use super::hwcap::LegacyHwcaps;
use super::library::{self, Facts};
use super::machine::Machine;
use super::rules::Rules;
use super::{CacheReport, compare_names, join};
use crate::confined_fs::{DirEntry, EntryType, RootDir};

/// Maximum size of a library in bytes. The largest of the driver have about 300 MB.
const MAX_LIBRARY: u64 = 4 << 30;

/// A library of one directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found {
    /// File name.
    pub name: OsString,
    /// The name that programs request.
    pub soname: OsString,
    pub facts: Facts,
    /// Whether the file is a link that already represents `soname`.
    pub is_link: bool,
}

/// The libraries in a directory.
#[derive(Debug, Default)]
pub(super) struct Scanned {
    /// For each SONAME only the newest library, preferring a file over a link.
    pub libraries: Vec<Found>,
    /// Subdirectories for special hardware.
    pub legacy: Vec<OsString>,
}

/// Scans the files of a root.
pub(super) struct Scanner<'a> {
    pub root: &'a RootDir,
    pub machine: Machine,
    pub rules: &'a Rules,
    pub legacy: &'a LegacyHwcaps,
}

impl Scanner<'_> {
    /// Scans `dir`.
    pub fn scan(&self, dir: &ScanDir, report: &mut CacheReport) -> Scanned {
        let entries = match self.root.list(Path::new(&dir.path)) {
            Ok(entries) => entries,
            Err(error) => {
                report.warn(error.to_string());
                return Scanned::default();
            }
        };
        let mut scanned = Scanned::default();
        let mut by_soname: HashMap<OsString, usize> = HashMap::new();
        for entry in entries.into_iter().filter(|e| self.is_candidate(e, dir)) {
            if self.is_legacy_dir(&entry, dir) {
                scanned.legacy.push(entry.name);
            } else if let Some(lib) = self.look_at(dir, entry, report) {
                add(&mut scanned.libraries, &mut by_soname, lib);
            }
        }
        scanned
    }

    fn is_candidate(&self, entry: &DirEntry, dir: &ScanDir) -> bool {
        let name = entry.name.as_bytes();
        if entry.kind == EntryType::Other || self.is_temporary(name) {
            return false;
        }
        self.is_library_name(name)
            || (entry.kind != EntryType::File && self.is_legacy_name(&entry.name, dir))
            // In a glibc-hwcaps directory, ldconfig ignores the names of links.
            || (entry.kind == EntryType::Link && dir.hwcaps.is_some())
    }

    /// `lib*.so*` and `ld-*.so*`, since glibc 2.34 `ld.so.*` and `ld64.so.*` too.
    fn is_library_name(&self, name: &[u8]) -> bool {
        let has_so = name.windows(3).any(|w| w == b".so");
        let is_loader = name.starts_with(b"ld.so.") || name.starts_with(b"ld64.so.");
        ((name.starts_with(b"lib") || name.starts_with(b"ld-")) && has_so)
            || (self.rules.loader_names && is_loader)
    }

    /// Returns whether a file is a temporary file of prelink, rpm or dpkg.
    fn is_temporary(&self, name: &[u8]) -> bool {
        const PRELINK: &[u8] = b".#prelink#";
        let random =
            name.len().checked_sub(PRELINK.len() + 7).and_then(|at| name.get(at..at + PRELINK.len() + 1));
        name.ends_with(PRELINK)
            || random == Some(b".#prelink#.")
            || (self.rules.skip_temporary
                && (name.contains(&b';') || name.ends_with(b".dpkg-new") || name.ends_with(b".dpkg-tmp")))
    }

    fn is_legacy_name(&self, name: &OsStr, dir: &ScanDir) -> bool {
        self.rules.legacy_hwcaps && dir.hwcaps.is_none() && self.legacy.is_searched(name)
    }

    fn is_legacy_dir(&self, entry: &DirEntry, dir: &ScanDir) -> bool {
        self.is_legacy_name(&entry.name, dir)
            && match entry.kind {
                EntryType::Directory => true,
                EntryType::Link => {
                    let path = join(&dir.path, &entry.name);
                    self.root.stat(&path).is_ok_and(|stat| stat.kind == EntryType::Directory)
                }
                EntryType::File | EntryType::Other => false,
            }
    }

    fn look_at(&self, dir: &ScanDir, entry: DirEntry, report: &mut CacheReport) -> Option<Found> {
        let DirEntry { name, kind } = entry;
        if kind == EntryType::Directory {
            return None;
        }
        let path = join(&dir.path, &name);
        let file = match self.root.open_file(&path, MAX_LIBRARY) {
            Ok(file) => file,
            Err(error) => {
                if !error.is_not_found() {
                    report.warn(error.to_string());
                }
                return None;
            }
        };
        let Some(mut facts) = library::read(&file, name.as_bytes(), self.machine, self.rules) else {
            if is_elf(&file) {
                report
                    .warn(format!("{}: ignored: not a library for this machine, or damaged", path.display()));
            }
            return None;
        };
        if let (library::ELF, Some(kind @ (2 | 3))) = (facts.flags, dir.kind) {
            facts.flags = kind;
        }
        let soname = facts.soname.take().map_or_else(|| name.clone(), OsString::from_vec);
        let is_link = kind == EntryType::Link && stands_for(&name, &soname);
        let soname = if is_link { name.clone() } else { soname };
        Some(Found { name, soname, facts, is_link })
    }
}

/// Adds a library, unless there is a better one with the same SONAME.
fn add(found: &mut Vec<Found>, by_soname: &mut HashMap<OsString, usize>, lib: Found) {
    let Some(&index) = by_soname.get(&lib.soname) else {
        by_soname.insert(lib.soname.clone(), found.len());
        return found.push(lib);
    };
    let known = &mut found[index];
    let newer = compare_names(known.name.as_bytes(), lib.name.as_bytes()).is_lt();
    if (known.is_link && !lib.is_link) || (known.is_link == lib.is_link && newer) {
        // The flags are those of the first, unless only one of them knows its libc.
        let flags = match (known.facts.flags, lib.facts.flags) {
            (library::ELF, 2 | 3) | (2 | 3, library::ELF) => lib.facts.flags,
            (first, _) => first,
        };
        *known = Found { facts: Facts { flags, ..lib.facts }, ..lib };
    }
}

/// Returns whether a link with this name is the SONAME link, or the development link `libx.so`. Any other link counts as one
/// more file with that SONAME.
fn stands_for(name: &OsStr, soname: &OsStr) -> bool {
    let (name, soname) = (name.as_bytes(), soname.as_bytes());
    name == soname || (name.ends_with(b".so") && soname.starts_with(name))
}

/// Returns whether a skipped file deserves a warning; linker scripts, for example, do not.
fn is_elf(file: &std::fs::File) -> bool {
    let mut magic = [0; 4];
    std::os::unix::fs::FileExt::read_exact_at(file, &mut magic, 0).is_ok() && magic == *b"\x7fELF"
}
