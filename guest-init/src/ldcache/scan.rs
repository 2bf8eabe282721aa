//! Scans one directory for libraries and their names.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use super::contents::Room;
use super::dirs::ScanDir;
use super::hwcap::LegacyHwcaps;
use super::library::{self, Content, Facts};
use super::machine::Machine;
use super::rules::Rules;
use super::{CacheReport, compare_names, join};
use crate::confined_fs::{DirEntry, Directory, EntryType, RootDir, RootError};

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
    /// Links to a file of the same directory, and the names of these files.
    pub links: HashMap<OsString, OsString>,
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
        let directory = match self.root.directory(Path::new(&dir.path)) {
            Ok(directory) => directory,
            Err(error) => {
                report.warn(error.to_string());
                return Scanned::default();
            }
        };
        let mut files = Files::of(&directory, self);
        let mut scanned = Scanned::default();
        let mut by_soname: HashMap<OsString, usize> = HashMap::new();
        for entry in directory.entries.iter().filter(|e| self.is_candidate(e, dir)) {
            if self.is_legacy_dir(entry, dir) {
                scanned.legacy.push(entry.name.clone());
            } else if let Some(lib) = look_at(dir, entry, &mut files, report) {
                add(&mut scanned.libraries, &mut by_soname, lib);
            }
        }
        scanned.links = files.links;
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
}

/// The regular files of a directory. Each is read once, although most libraries have several names.
struct Files<'a> {
    directory: &'a Directory,
    scanner: &'a Scanner<'a>,
    /// What has been read; `None`: not yet.
    known: HashMap<&'a OsStr, Option<Content>>,
    /// Links to them, and their names.
    links: HashMap<OsString, OsString>,
    room: Room,
}

impl<'a> Files<'a> {
    fn of(directory: &'a Directory, scanner: &'a Scanner<'a>) -> Self {
        let files = directory.entries.iter().filter(|entry| entry.kind == EntryType::File);
        let known = files.map(|entry| (entry.name.as_os_str(), None)).collect();
        Self { directory, scanner, known, links: HashMap::new(), room: Room::new() }
    }

    fn read(&mut self, name: &OsStr) -> Result<Content, RootError> {
        if let Some(Some(content)) = self.known.get(name) {
            return Ok(content.clone());
        }
        let (file, stat) = self.directory.open_file(name, MAX_LIBRARY)?;
        let content = self.look_into(&file, stat.size);
        if let Some(known) = self.known.get_mut(name) {
            *known = Some(content.clone());
        }
        Ok(content)
    }

    /// Reads a file wherever its path leads.
    fn read_at(&mut self, path: &Path) -> Result<Content, RootError> {
        let file = self.scanner.root.open_file(path, MAX_LIBRARY)?;
        let size = file.metadata().map_or(0, |metadata| metadata.len());
        Ok(self.look_into(&file, size))
    }

    fn look_into(&mut self, file: &File, size: u64) -> Content {
        library::read(file, size, &mut self.room, self.scanner.machine, self.scanner.rules)
    }

    /// Reads the file behind a link to another name of this directory.
    fn behind(&mut self, link: &OsStr) -> Option<Content> {
        let target = self.directory.read_link(link).ok()?;
        if !self.known.contains_key(target.as_os_str()) {
            return None;
        }
        let content = self.read(&target).ok()?;
        self.links.insert(link.to_owned(), target);
        Some(content)
    }
}

/// Returns the library that an entry is, or leads to.
fn look_at(dir: &ScanDir, entry: &DirEntry, files: &mut Files, report: &mut CacheReport) -> Option<Found> {
    let DirEntry { name, kind } = entry;
    let path = || join(&dir.path, name);
    let content = match kind {
        EntryType::Directory => return None,
        EntryType::Link => files.behind(name).map_or_else(|| files.read_at(&path()), Ok),
        EntryType::File | EntryType::Other => files.read(name),
    };
    let mut facts = match content {
        Ok(Content::Library(facts)) => facts,
        Ok(Content::Aout(flags)) => {
            let soname = Some(library::aout_soname(name.as_bytes()));
            Facts { flags, soname, ..Facts::default() }
        }
        Ok(Content::OtherElf) => {
            let path = path();
            report.warn(format!("{}: ignored: not a library for this machine, or damaged", path.display()));
            return None;
        }
        Ok(Content::Other) => return None,
        Err(error) => {
            if !error.is_not_found() {
                report.warn(error.to_string());
            }
            return None;
        }
    };
    if let (library::ELF, Some(kind @ (2 | 3))) = (facts.flags, dir.kind) {
        facts.flags = kind;
    }
    let soname = facts.soname.take().map_or_else(|| name.clone(), OsString::from_vec);
    let is_link = *kind == EntryType::Link && stands_for(name, &soname);
    let soname = if is_link { name.clone() } else { soname };
    Some(Found { name: name.clone(), soname, facts, is_link })
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
