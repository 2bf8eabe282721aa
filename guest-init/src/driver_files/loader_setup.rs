//! The last step: writes the loader's configuration and cache in the assembled container root, and checks the result.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use image::config::DriverFiles;

use super::destination::{Loader, Places, RUN_LINK};
use super::error::InjectError;
use super::names::version_of;
use super::notice::{MAX_NAMED, Notice};
use super::report::{InjectReport, Item, ItemKind, Resolution, text};
use super::request::ContainerRequest;
use super::search::searched;
use super::{bundled, icd, musl};
use crate::confined_fs::RootDir;
use crate::ldcache::{self, Machine, Resolved};

/// The names that CUDA programs open. `libcuda.so` is what Triton and numba open.
const CHECKED: [&str; 3] = ["libcuda.so.1", "libcuda.so", "libnvidia-ml.so.1"];
/// Prefix of hidden driver files of another version, so that neither loader nor `ldconfig` treats them as libraries. They
/// can be renamed back.
const MASKED: &str = ".gpu-initrd-masked.";
/// Maximum length of a file name in bytes, without its number.
const MAX_NAME: usize = 250;
/// Maximum number of hidden files per name over all boots.
const MAX_HIDDEN: usize = 100;

/// Repairs links that a higher layer hides, makes sure that the directory of libraries is searched, writes the loader
/// cache of `root`, and checks which files its loader opens.
///
/// # Errors
/// [`InjectError`] if the cache or its sources cannot be written.
pub fn complete(
    root: &RootDir,
    request: &ContainerRequest,
    report: &mut InjectReport,
) -> Result<(), InjectError> {
    let Some(places) = Places::of(root) else { return Ok(()) };
    if request.driver_files != DriverFiles::Keep {
        repair_links(root, report);
    }
    later_driver(root, &places, request, report)?;
    report.notices.extend(hidden(root, report));
    let dir = PathBuf::from(&report.lib_dir);
    match &places.loader {
        Loader::Glibc(platform) => {
            // Libraries that take precedence over the driver come first.
            let mut keep: Vec<PathBuf> = report.compat_dir.iter().map(PathBuf::from).collect();
            keep.extend((!platform.is_default_dir(root, &dir)).then_some(dir));
            report.changed += usize::from(ldcache::keep_directories(root, platform, &keep)?);
            let cache = ldcache::build_for(root, platform)?;
            report.changed += cache.report.links.len();
            report.changed += usize::from(cache.write(root)?);
            report.cache = Some(cache.report);
        }
        Loader::Musl => report.changed += usize::from(musl::keep_directory(root, &dir)?),
        Loader::Store => {}
    }
    if places.store {
        let only = places.loader == Loader::Store;
        report.notices.push(Notice::Store { only, program: search_of_program(request, root) });
    }
    if places.loader != Loader::Store {
        let built_in = (request.rpath(root), request.runpath(root));
        report.resolved = CHECKED.map(|name| check(root, name, &places, request, &built_in, report)).into();
    }
    let shadowed =
        report.resolved.iter().filter(|found| !found.expected && is_injected(&found.soname, report));
    let shadowed = shadowed.map(|found| {
        let (soname, path, version) = (found.soname.clone(), found.path.clone(), found.version.clone());
        Notice::Shadowed { soname, path, version }
    });
    report.notices.extend(shadowed.collect::<Vec<_>>());
    Ok(())
}

/// Reports driver files that are not visible in the container: an upper layer may have removed their directory.
fn hidden(root: &RootDir, report: &InjectReport) -> Option<Notice> {
    let files = report.items.iter().filter(|item| item.kind == ItemKind::File);
    let unseen = files.filter(|item| root.stat(Path::new(&item.path)).is_err());
    let paths: Vec<String> = unseen.take(MAX_NAMED).map(|item| item.path.clone()).collect();
    (!paths.is_empty()).then_some(Notice::Hidden { paths })
}

/// Describes whether the container's program searches the directory of the driver for programs of Nix and Guix.
fn search_of_program(request: &ContainerRequest, root: &RootDir) -> String {
    let program = request.program.as_deref().unwrap_or("the container's program");
    let built_for = request.runpath(root).iter().any(|dir| dir.starts_with(RUN_LINK));
    let in_path = request
        .library_path
        .as_deref()
        .is_some_and(|dirs| dirs.to_string_lossy().split(':').any(|dir| dir.starts_with(RUN_LINK)));
    match (built_for, in_path) {
        (true, _) => format!("{program} searches this directory (RUNPATH)"),
        (_, true) => "LD_LIBRARY_PATH contains it, so every program searches this directory".into(),
        _ => format!("{program} itself does not search this directory; libraries that it loads may"),
    }
}

/// Repairs links that `ldconfig` created for another version during an earlier boot.
fn repair_links(root: &RootDir, report: &mut InjectReport) {
    for item in report.items.iter().filter(|item| item.kind == ItemKind::Link) {
        let (path, target) = (Path::new(&item.path), Path::new(&item.target));
        if root.read_link(path).is_ok_and(|old| old == target) {
            continue;
        }
        match root.symlink(target.as_os_str(), path) {
            Ok(()) => report.changed += 1,
            // For example a directory with a driver's name; the check of opened libraries shows whether it matters.
            Err(error) => report.warnings.push(error.to_string()),
        }
    }
}

/// Handles a driver that the container installed in its upper layer during an earlier boot.
fn later_driver(
    root: &RootDir,
    places: &Places,
    request: &ContainerRequest,
    report: &mut InjectReport,
) -> Result<(), InjectError> {
    if request.driver_files == DriverFiles::Keep {
        return Ok(());
    }
    let ours: BTreeSet<PathBuf> = report.items.iter().map(|item| item.path.clone().into()).collect();
    let except: Vec<PathBuf> = report.compat_dir.iter().map(PathBuf::from).collect();
    let dirs = searched(root, places, request);
    let mut found = bundled::find(root, &dirs, &ours, &except, &mut report.warnings);
    let files = ours.iter().map(|path| (path.as_path(), root, path.as_path()));
    found.extend(bundled::competing(root, request, &icd::Ours::of(files), &ours));
    match bundled::notice(&found, request.driver_files, report.version.as_deref()) {
        Some(notice) if request.driver_files == DriverFiles::Refuse => {
            return Err(InjectError::Refused(Box::new(notice)));
        }
        notice => report.notices.extend(notice),
    }
    for file in found {
        mask(root, &file.path, report);
    }
    Ok(())
}

/// Hides a file under a name that neither the loader nor `ldconfig` treats as a library. Files that are hidden already are
/// kept.
pub(crate) fn mask(root: &RootDir, path: &Path, report: &mut InjectReport) {
    let hidden = hidden_name(path);
    let names = (0..MAX_HIDDEN).map(|number| match number {
        0 => hidden.clone(),
        number => [&*hidden, OsStr::new(&format!(".{number}"))].into_iter().collect(),
    });
    let free = names.into_iter().find(|name: &OsString| root.lstat(&path.with_file_name(name)).is_err());
    match root.rename(path, &free.unwrap_or(hidden)) {
        Ok(()) => {
            report.changed += 1;
            report.masked.push(text(path));
        }
        Err(error) => report.warnings.push(format!("cannot hide {}: {error}", path.display())),
    }
}

/// Returns the name under which the file at `path` is hidden.
fn hidden_name(path: &Path) -> OsString {
    let name = path.file_name().unwrap_or_default();
    let mut hidden = OsString::from(MASKED);
    // Graphics loaders read every file with the right extension.
    let end = if icd::kind_of(path).is_some() { ".hidden" } else { "" };
    if MASKED.len() + name.len() + end.len() <= MAX_NAME {
        hidden.push(name);
    } else {
        // The name is too long: use its start and a hash that distinguishes it from others.
        let mut hasher = DefaultHasher::new();
        name.hash(&mut hasher);
        hidden.push(OsStr::from_bytes(&name.as_bytes()[..MAX_NAME - MASKED.len() - end.len() - 17]));
        hidden.push(format!(".{:016x}", hasher.finish()));
    }
    hidden.push(end);
    hidden
}

fn check(
    root: &RootDir,
    soname: &str,
    places: &Places,
    request: &ContainerRequest,
    (rpath, runpath): &(Vec<PathBuf>, Vec<PathBuf>),
    report: &InjectReport,
) -> Resolution {
    let library_path = request.library_path.as_deref();
    let found: Option<Resolved> = match &places.loader {
        Loader::Glibc(platform) => {
            let platform = Some(&**platform);
            let request =
                ldcache::SearchSettings { library_path, rpath, runpath, machine: Machine::NATIVE, platform };
            ldcache::resolve(root, soname, &request)
        }
        _ => musl::resolve(root, soname, library_path),
    };
    let is_ours = |file: &str| report.items.iter().any(|i| i.kind == ItemKind::File && i.path == file);
    let is_compat = |file: &str| {
        report.compat_dir.as_ref().is_some_and(|dir| Path::new(file).parent() == Some(Path::new(dir)))
    };
    let file = found.as_ref().map(|f| text(&f.file));
    // On a newer processor, the loader would open another copy.
    let variants = found.iter().flat_map(|found| &found.variants).map(|variant| text(&variant.file));
    let all_ours = file.iter().cloned().chain(variants).all(|file| is_ours(&file) || is_compat(&file));
    Resolution {
        soname: soname.to_owned(),
        expected: file.is_some() && all_ours,
        version: found.as_ref().and_then(|f| version_of(f.file.file_name()?)),
        via: found.as_ref().map(|f| f.via),
        path: found.map(|f| text(&f.path)),
        file,
    }
}

/// Returns whether the container received the library with this SONAME.
fn is_injected(soname: &str, report: &InjectReport) -> bool {
    let stem = soname.split_inclusive(".so").next().unwrap_or(soname);
    let is_it = |item: &Item| item.path.rsplit('/').next().is_some_and(|name| name.starts_with(stem));
    report.items.iter().any(is_it)
}
