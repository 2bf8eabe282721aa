//! One directory: which files are libraries, under which name each is known, and the SONAME links.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use image::elf::{self, Elf, ElfError};

use super::compare_names;
use super::dirs::ScanDir;
use super::platform::{MAX_LIBRARY, Machine};
use super::{CacheReport, LinkChange, join};
use crate::rootfs::{DirEntry, Kind, RootDir, is_file_name};

/// `e_type` of a shared object.
const ET_DYN: u16 = 3;

/// A library of one directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found {
    /// File name.
    pub name: OsString,
    /// The name that programs ask for.
    pub soname: OsString,
    pub flags: i32,
    pub isa_level: u32,
    /// The file is a link that already stands for `soname`.
    pub is_link: bool,
}

/// Finds the libraries of `dir`: of those with the same SONAME only the newest, a file rather than a link.
pub(super) fn scan(root: &RootDir, dir: &ScanDir, machine: Machine, report: &mut CacheReport) -> Vec<Found> {
    let entries = match root.list(Path::new(&dir.path)) {
        Ok(entries) => entries,
        Err(error) => {
            report.warn(error.to_string());
            return Vec::new();
        }
    };
    let mut found: Vec<Found> = Vec::new();
    let mut by_soname: HashMap<OsString, usize> = HashMap::new();
    for entry in entries.into_iter().filter(|e| is_candidate(e, dir)) {
        let Some(lib) = look_at(root, dir, entry, machine, report) else { continue };
        match by_soname.get(&lib.soname) {
            None => {
                by_soname.insert(lib.soname.clone(), found.len());
                found.push(lib);
            }
            Some(&index) => {
                let known = &mut found[index];
                let newer = compare_names(known.name.as_bytes(), lib.name.as_bytes()).is_lt();
                if (known.is_link && !lib.is_link) || (known.is_link == lib.is_link && newer) {
                    // ldconfig keeps the flags of the first.
                    *known = Found { flags: known.flags, ..lib };
                }
            }
        }
    }
    found
}

fn is_candidate(entry: &DirEntry, dir: &ScanDir) -> bool {
    let name = entry.name.as_bytes();
    if !matches!(entry.kind, Kind::File | Kind::Link) || is_temporary(name) {
        return false;
    }
    // In a glibc-hwcaps directory, ldconfig does not look at the names of links.
    is_library_name(name) || (entry.kind == Kind::Link && dir.hwcaps.is_some())
}

/// `lib*.so*`, `ld-*.so*`, `ld.so.*` and `ld64.so.*`.
fn is_library_name(name: &[u8]) -> bool {
    let has_so = name.windows(3).any(|w| w == b".so");
    ((name.starts_with(b"lib") || name.starts_with(b"ld-")) && has_so)
        || name.starts_with(b"ld.so.")
        || name.starts_with(b"ld64.so.")
}

/// Files that prelink, rpm and dpkg are in the middle of writing.
fn is_temporary(name: &[u8]) -> bool {
    const PRELINK: &[u8] = b".#prelink#";
    let random =
        name.len().checked_sub(PRELINK.len() + 7).and_then(|at| name.get(at..at + PRELINK.len() + 1));
    name.ends_with(PRELINK)
        || random == Some(b".#prelink#.")
        || name.contains(&b';')
        || name.ends_with(b".dpkg-new")
        || name.ends_with(b".dpkg-tmp")
}

fn look_at(
    root: &RootDir,
    dir: &ScanDir,
    entry: DirEntry,
    machine: Machine,
    report: &mut CacheReport,
) -> Option<Found> {
    let path = join(&dir.path, &entry.name);
    let elf = read_library(root, &path, report)?;
    let Some(flags) = machine.flags(&elf) else {
        report.warn(format!("{}: for another machine ({}), ignored", path.display(), elf.machine));
        return None;
    };
    let DirEntry { name, kind } = entry;
    let soname = elf.soname.map_or_else(|| name.clone(), OsString::from_vec);
    // ldconfig would follow such a name out of the directory.
    if !is_file_name(&soname) {
        report.warn(format!("{}: its SONAME {} is no file name, ignored", path.display(), soname.display()));
        return None;
    }
    let is_link = kind == Kind::Link && stands_for(&name, &soname);
    let soname = if is_link { name.clone() } else { soname };
    // The level is the highest bit.
    let isa_level = elf.x86_isa_needed.checked_ilog2().unwrap_or_default();
    Some(Found { name, soname, flags, isa_level, is_link })
}

/// Whether a link of this name is the SONAME link, or the development link `libx.so` for the linker. Any
/// other link counts as one more file with that SONAME.
fn stands_for(name: &OsStr, soname: &OsStr) -> bool {
    let (name, soname) = (name.as_bytes(), soname.as_bytes());
    name == soname || (name.ends_with(b".so") && soname.starts_with(name))
}

/// Reads a library. `None` for what is none: a linker script, a debugger's script, a link to nowhere.
fn read_library(root: &RootDir, path: &Path, report: &mut CacheReport) -> Option<Elf> {
    let file = match root.open_file(path, MAX_LIBRARY) {
        Ok(file) => file,
        Err(error) if error.is_not_found() => return None,
        Err(error) => {
            report.warn(error.to_string());
            return None;
        }
    };
    match elf::read(&file) {
        Ok(elf) if elf.e_type == ET_DYN && elf.dynamic => Some(elf),
        Ok(_) | Err(ElfError::NotElf { .. }) => None,
        Err(error) => {
            report.warn(format!("{}: {error}", path.display()));
            None
        }
    }
}

/// Makes the SONAME link of a library, or points it to this file, when `ldconfig` would. A link that cannot
/// be made is no reason to leave the library out: the next one in the search order might be worse.
pub(super) fn make_link(root: &RootDir, dir: &ScanDir, lib: &Found, report: &mut CacheReport) {
    if lib.is_link || lib.name == lib.soname {
        return;
    }
    let path = join(&dir.path, &lib.soname);
    let Ok(file) = root.stat(&join(&dir.path, &lib.name)) else { return };
    match root.stat(&path) {
        Ok(present) if (present.dev, present.ino) == (file.dev, file.ino) => return,
        Ok(_) if is_loader(lib.soname.as_bytes()) => return,
        _ => {}
    }
    if let Ok(present) = root.lstat(&path)
        && present.kind != Kind::Link
    {
        return report.warn(format!("{}: expected a symbolic link, left alone", path.display()));
    }
    match root.symlink(&lib.name, &path) {
        Ok(()) => report.links.push(LinkChange {
            path: path.display().to_string(),
            target: lib.name.to_string_lossy().into_owned(),
        }),
        Err(error) => report.warn(error.to_string()),
    }
}

/// The loader itself: a wrong link here and no program starts any more. Debian's `ldconfig` leaves it alone
/// too.
fn is_loader(soname: &[u8]) -> bool {
    soname.starts_with(b"ld-linux") || soname.starts_with(b"ld.so.") || soname.starts_with(b"ld64.so.")
}
