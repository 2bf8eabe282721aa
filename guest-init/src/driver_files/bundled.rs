//! Driver files in the image: of another version, leftovers, or stubs.
//!
//! They are identified by the driver's library names and by SONAME, in every directory that the container's loader
//! would search.

use std::collections::{BTreeSet, VecDeque};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use image::config::DriverFiles;
use image::elf;

use super::destination::{Loader, Places};
use super::error::InjectError;
use super::inventory::Inventory;
use super::names::{is_driver_library, is_driver_program, version_of};
use super::notice::Notice;
use super::request::ContainerRequest;
use super::search::searched;
use super::{cuda_compat, icd};
use crate::confined_fs::{DirEntry, Directory, EntryType, RootDir};

/// Maximum number of files found. A hostile image could have one per name.
const MAX_FOUND: usize = 4096;
/// Maximum number of libraries that are opened for their SONAME. The largest images have about 6000.
const MAX_OPENED: usize = 16_384;
/// Maximum number of glibc-hwcaps subdirectories searched per directory. glibc knows four.
const MAX_HWCAPS: usize = 64;
/// Maximum size of a library in bytes. Only its headers are read.
const MAX_LIBRARY: u64 = 1 << 40;

/// A driver file of the image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Foreign {
    /// Its path.
    pub path: PathBuf,
    /// The driver version in its name, or in that of the file that it leads to.
    pub version: Option<String>,
}

/// The decision about the image's own driver files.
#[derive(Debug, Default)]
pub struct Decided {
    /// Files to hide.
    pub masks: Vec<PathBuf>,
    /// Directory of the compatibility libraries to use.
    pub compat_dir: Option<PathBuf>,
    /// What to report.
    pub notices: Vec<Notice>,
}

/// Searches the image for driver files and applies the policy. `ours` are the paths that an earlier injection created and
/// those that this one will create: files of the image there are reported, and replaced in any case.
///
/// # Errors
/// [`InjectError::Refused`] if there are any and the policy refuses them.
pub fn decide(
    root: &RootDir,
    places: &Places,
    inventory: &Inventory,
    request: &ContainerRequest,
    (earlier, planned): (&BTreeSet<PathBuf>, &BTreeSet<PathBuf>),
    icds: &icd::Ours,
    warnings: &mut Vec<String>,
) -> Result<Decided, InjectError> {
    let driver = inventory.version.as_deref();
    let mut decided = Decided::default();
    let dirs = searched(root, places, request);
    if let Some(driver) = driver {
        let has_cache = matches!(places.loader, Loader::Glibc(_));
        for decision in cuda_compat::decide(root, &dirs, driver, has_cache) {
            if decision.used {
                decided.compat_dir = Some(decision.dir.clone());
            }
            decided.notices.push(Notice::CudaCompat { decision, driver: driver.to_owned() });
        }
    }
    let mut found = find(root, &dirs, earlier, decided.compat_dir.as_slice(), warnings);
    found.extend(competing(root, request, icds, &earlier.union(planned).cloned().collect()));
    // The same driver, in its place.
    found.retain(|file| !planned.contains(&file.path) || file.version.as_deref() != driver);
    match (notice(&found, request.driver_files, driver), request.driver_files) {
        (Some(notice), DriverFiles::Refuse) => return Err(InjectError::Refused(Box::new(notice))),
        (notice, DriverFiles::Mask) => {
            decided.notices.extend(notice);
            let masks = found.into_iter().map(|file| file.path).filter(|path| !planned.contains(path));
            decided.masks = masks.collect();
        }
        (notice, _) => decided.notices.extend(notice),
    }
    Ok(decided)
}

/// Reports driver files of the image.
pub fn notice(found: &[Foreign], policy: DriverFiles, driver: Option<&str>) -> Option<Notice> {
    let versions: BTreeSet<&str> = found.iter().filter_map(|file| file.version.as_deref()).collect();
    let versions: Vec<&str> = versions.into_iter().collect();
    let versions = if versions.is_empty() { "unknown version".into() } else { versions.join(", ") };
    let files: Vec<PathBuf> = found.iter().map(|file| file.path.clone()).collect();
    let driver = driver.map(str::to_owned);
    (!files.is_empty()).then_some(Notice::BundlesDriver { files, versions, driver, policy })
}

/// Finds files of the image that programs would use in addition to the injected ones, or instead of them: files of
/// graphics loaders for the same libraries, and programs with the same names. `ours` are the injected paths.
pub fn competing(
    root: &RootDir,
    request: &ContainerRequest,
    icds: &icd::Ours,
    ours: &BTreeSet<PathBuf>,
) -> Vec<Foreign> {
    let icds = icds.doubled(root, ours, &request.named_files);
    let names = ours.iter().filter_map(|path| path.file_name()).filter(|name| is_driver_program(name));
    let names: BTreeSet<&OsStr> = names.collect();
    let dirs: BTreeSet<PathBuf> = request.program_dirs().filter_map(|dir| root.canonical(dir).ok()).collect();
    let paths = dirs.iter().flat_map(|dir| names.iter().map(move |name| dir.join(name)));
    // A script of that name is not the driver's.
    let is_program =
        |path: &PathBuf| root.open_file(path, MAX_LIBRARY).is_ok_and(|file| elf::read(&file).is_ok());
    let programs = paths.filter(|path| !ours.contains(path)).filter(is_program);
    icds.into_iter().chain(programs).map(|path| Foreign { version: None, path }).collect()
}

/// Finds the driver files in `dirs`, and in their subdirectories for newer processors, that are not among `ours`.
/// Directories in `except` are left out.
pub fn find(
    root: &RootDir,
    dirs: &[PathBuf],
    ours: &BTreeSet<PathBuf>,
    except: &[PathBuf],
    warnings: &mut Vec<String>,
) -> Vec<Foreign> {
    let mut seen = BTreeSet::new();
    let mut found = Vec::new();
    let mut opened = 0;
    // Subdirectories are searched last.
    let mut dirs: VecDeque<(PathBuf, bool)> = dirs.iter().map(|dir| (dir.clone(), true)).collect();
    while let Some((dir, is_base)) = dirs.pop_front() {
        let Ok(dir) = root.canonical(&dir) else { continue };
        if except.contains(&dir) || !seen.insert(dir.clone()) {
            continue;
        }
        if is_base {
            dirs.extend(hwcaps_of(root, &dir).into_iter().map(|dir| (dir, false)));
        }
        let directory = match root.directory(&dir) {
            Ok(directory) => directory,
            Err(error) if error.is_not_found() => continue,
            Err(error) => {
                warnings
                    .push(format!("cannot search {} for driver files of the image: {error}", dir.display()));
                continue;
            }
        };
        for entry in &directory.entries {
            let path = dir.join(&entry.name);
            if found.len() < MAX_FOUND && !ours.contains(&path) && is_drivers(&directory, entry, &mut opened)
            {
                let version = version_at(root, &path, &entry.name);
                found.push(Foreign { path, version });
            }
        }
    }
    if opened > MAX_OPENED {
        let text = format!("more than {MAX_OPENED} libraries: only the names of the rest were checked");
        warnings.push(text);
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

/// Returns the subdirectories of a library directory for newer processors.
fn hwcaps_of(root: &RootDir, dir: &Path) -> Vec<PathBuf> {
    let parent = dir.join("glibc-hwcaps");
    let entries = root.list(&parent).unwrap_or_default();
    entries.into_iter().take(MAX_HWCAPS).map(|entry| parent.join(entry.name)).collect()
}

/// Returns whether an entry has a driver's name, or is a library with a driver's SONAME under another name, for which
/// `ldconfig` would create the link that programs open.
fn is_drivers(directory: &Directory, entry: &DirEntry, opened: &mut usize) -> bool {
    if entry.kind == EntryType::Directory {
        return false;
    }
    if is_driver_library(&entry.name) {
        return true;
    }
    let name = entry.name.as_bytes();
    let library =
        entry.kind == EntryType::File && name.starts_with(b"lib") && name.windows(3).any(|w| w == b".so");
    if !library {
        return false;
    }
    *opened += 1;
    *opened <= MAX_OPENED && soname(directory, &entry.name).is_some_and(|soname| is_driver_library(&soname))
}

fn soname(directory: &Directory, name: &OsStr) -> Option<OsString> {
    let (file, _) = directory.open_file(name, MAX_LIBRARY).ok()?;
    elf::read(&file).ok()?.soname.map(OsString::from_vec)
}

fn version_at(root: &RootDir, path: &Path, name: &OsStr) -> Option<String> {
    version_of(name).or_else(|| version_of(root.canonical(path).ok()?.file_name()?))
}
