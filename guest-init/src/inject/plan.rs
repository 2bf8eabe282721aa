//! What goes where: the driver's files, the container's directories, and the links between them.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use image::elf::{self, ElfError};
use image::layout::{DRIVER_BIN_DIR, DRIVER_LIB_DIR};

use super::{InjectError, InjectReport, Item, ItemKind, text};
use crate::ldcache::{Machine, Platform, compare_names};
use crate::rootfs::{Kind, RootDir, RootError, is_file_name};

/// The links for the linker that NVIDIA's installer makes. Programs open them too.
const DEVELOPMENT_LINKS: [&str; 4] =
    ["libcuda.so", "libnvidia-ml.so", "libnvcuvid.so", "libnvidia-encode.so"];
/// Where programs go.
const BIN_DIR: &str = "/usr/bin";
/// Bytes of one driver file.
pub(super) const MAX_FILE: u64 = 4 << 30;
/// `e_type` of a shared object.
const ET_DYN: u16 = 3;

/// Permission bits of what is injected, for places where it is copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bits {
    /// 0644.
    Library,
    /// 0755, without set-user-id: in a guest the nodes exist before the container does.
    Program,
}

impl Bits {
    pub(super) fn mode(self) -> u32 {
        match self {
            Self::Library => 0o644,
            Self::Program => 0o755,
        }
    }
}

/// Everything that the container is to get, and what is in the way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Files: path in the driver directory, path in the container.
    pub files: Vec<(PathBuf, PathBuf, Bits)>,
    /// Links: path in the container, target in the same directory.
    pub links: Vec<(PathBuf, OsString)>,
    /// Files of the container that are another version of what it gets.
    pub masks: Vec<PathBuf>,
    /// The beginning of the report.
    pub report: InjectReport,
}

struct Library {
    name: OsString,
    soname: OsString,
}

/// Plans the injection of the driver below `driver` into the container `root`.
///
/// # Errors
/// [`InjectError::NoGlibc`], [`InjectError::NoLibraries`], or a directory that cannot be read.
pub fn plan(root: &RootDir, driver: &RootDir) -> Result<Plan, InjectError> {
    let platform =
        Platform::detect(root).ok_or(InjectError::NoGlibc { triplet: Machine::NATIVE.triplet() })?;
    let mut report = InjectReport { lib_dir: text(&platform.lib_dir), ..InjectReport::default() };
    let libraries = driver_libraries(driver, platform.machine, &mut report)?;
    let lib_dir = &platform.lib_dir;
    let mut files = Vec::new();
    for lib in &libraries {
        let (from, to) = (Path::new(DRIVER_LIB_DIR).join(&lib.name), lib_dir.join(&lib.name));
        report.items.push(Item {
            path: text(&to),
            kind: ItemKind::File,
            target: text(&from),
            soname: Some(lib.soname.to_string_lossy().into_owned()),
        });
        files.push((from, to, Bits::Library));
    }
    let bin_dir = root.canonical(Path::new(BIN_DIR)).unwrap_or_else(|_| BIN_DIR.into());
    for name in regular_files(driver, Path::new(DRIVER_BIN_DIR), true)? {
        let (from, to) = (Path::new(DRIVER_BIN_DIR).join(&name), bin_dir.join(&name));
        report.items.push(Item { path: text(&to), kind: ItemKind::File, target: text(&from), soname: None });
        files.push((from, to, Bits::Program));
    }
    let links: Vec<(PathBuf, OsString)> =
        links(&libraries).into_iter().map(|(name, target)| (lib_dir.join(name), target)).collect();
    for (path, target) in &links {
        let (path, target) = (text(path), text(Path::new(target)));
        report.items.push(Item { path, kind: ItemKind::Link, target, soname: None });
    }
    let placed = files.iter().map(|(_, to, _)| to).chain(links.iter().map(|(path, _)| path));
    let kept: BTreeSet<&OsStr> = placed.filter_map(|path| path.file_name()).collect();
    let masks = other_versions(root, lib_dir, &libraries, &kept)?;
    Ok(Plan { files, links, masks, report })
}

/// The driver's libraries for this machine, by name.
fn driver_libraries(
    driver: &RootDir,
    machine: Machine,
    report: &mut InjectReport,
) -> Result<Vec<Library>, InjectError> {
    let dir = Path::new(DRIVER_LIB_DIR);
    let names = regular_files(driver, dir, false)?;
    let found = names.len();
    let mut libraries = Vec::new();
    for name in names {
        let path = dir.join(&name);
        let file = driver.open_file(&path, MAX_FILE).map_err(in_driver)?;
        let elf = match elf::read(&file) {
            Ok(elf) if elf.e_type == ET_DYN && machine.flags(&elf) == Some(machine.native_flags()) => elf,
            Ok(_) => {
                report.warnings.push(format!("{}: no library for the container's machine", path.display()));
                continue;
            }
            Err(ElfError::NotElf { .. }) => continue,
            Err(error) => {
                report.warnings.push(format!("{}: {error}", path.display()));
                continue;
            }
        };
        // The driver is ours, but its SONAME becomes a path in the container.
        let soname = elf.soname.map(OsString::from_vec).filter(|s| is_file_name(s));
        libraries.push(Library { soname: soname.unwrap_or_else(|| name.clone()), name });
    }
    if libraries.is_empty() {
        return Err(InjectError::NoLibraries { dir: DRIVER_LIB_DIR, found });
    }
    Ok(libraries)
}

/// The links of `libraries`: SONAMEs, told by the files themselves, then development links.
fn links(libraries: &[Library]) -> Vec<(OsString, OsString)> {
    let names: BTreeSet<&OsStr> = libraries.iter().map(|l| l.name.as_os_str()).collect();
    let mut links: BTreeMap<OsString, OsString> = BTreeMap::new();
    for lib in libraries.iter().filter(|l| !names.contains(l.soname.as_os_str())) {
        let newest = links.entry(lib.soname.clone()).or_insert_with(|| lib.name.clone());
        if compare_names(newest.as_bytes(), lib.name.as_bytes()).is_lt() {
            newest.clone_from(&lib.name);
        }
    }
    let is_of = |soname: &OsStr, link: &str| {
        soname.as_bytes().strip_prefix(link.as_bytes()).is_some_and(|rest| rest.starts_with(b"."))
    };
    for link in DEVELOPMENT_LINKS {
        let target = libraries.iter().map(|l| &l.soname).find(|soname| is_of(soname, link));
        if let Some(soname) = target {
            links.entry(link.into()).or_insert_with(|| soname.clone());
        }
    }
    links.into_iter().collect()
}

/// Files in the container's library directory that are another version of one of ours. Left visible, a newer
/// one would win the SONAME link when somebody runs `ldconfig` in the container.
fn other_versions(
    root: &RootDir,
    lib_dir: &Path,
    libraries: &[Library],
    kept: &BTreeSet<&OsStr>,
) -> Result<Vec<PathBuf>, InjectError> {
    let stems: BTreeSet<&[u8]> = libraries.iter().filter_map(|l| stem(l.name.as_bytes())).collect();
    let mut masks = Vec::new();
    for entry in root.list(lib_dir)? {
        let known = stem(entry.name.as_bytes()).is_some_and(|s| stems.contains(s));
        if known && matches!(entry.kind, Kind::File | Kind::Link) && !kept.contains(entry.name.as_os_str()) {
            masks.push(lib_dir.join(entry.name));
        }
    }
    masks.sort();
    Ok(masks)
}

/// `libx` of `libx.so`, `libx.so.1` and `libx.so.1.2`; nothing for names of any other form.
fn stem(name: &[u8]) -> Option<&[u8]> {
    let at = name.windows(3).position(|w| w == b".so")?;
    let version = &name[at + 3..];
    let numbers =
        |text: &[u8]| text.split(|b| *b == b'.').all(|n| !n.is_empty() && n.iter().all(u8::is_ascii_digit));
    (version.is_empty() || version.strip_prefix(b".").is_some_and(numbers)).then_some(&name[..at])
}

fn regular_files(driver: &RootDir, dir: &Path, optional: bool) -> Result<Vec<OsString>, InjectError> {
    let entries = match driver.list(dir) {
        Err(error) if optional && error.is_not_found() => Vec::new(),
        other => other.map_err(in_driver)?,
    };
    let files = entries.into_iter().filter(|e| e.kind == Kind::File);
    let mut names: Vec<OsString> = files.map(|e| e.name).collect();
    names.sort();
    Ok(names)
}

pub(super) fn in_driver(source: RootError) -> InjectError {
    InjectError::Ours { place: "cannot read the driver directory of the initrd", source }
}
