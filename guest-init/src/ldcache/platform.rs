//! Detects the container's loader from the loader itself, never from the name of the distribution.
//!
//! Every glibc loader contains its default directories and the path of its cache. If no loader is found, the location of
//! libc.so.6 is used instead.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use image::elf;

use super::binary_strings;
use super::binary_strings::Loader;
use super::machine::Machine;
use crate::confined_fs::{EntryType, RootDir};

/// The cache of nearly every loader.
const CACHE: &str = "/etc/ld.so.cache";
/// Maximum number of programs whose loader is read, if it is not in a usual place.
const MAX_PROGRAMS: usize = 512;
/// Maximum number of loaders tried, each of which is read completely.
const MAX_LOADERS: usize = 4;
/// Directories of programs.
const PROGRAM_DIRS: [&str; 6] = ["/usr/bin", "/bin", "/usr/local/bin", "/usr/sbin", "/sbin", "/app"];

/// Settings that the container's glibc was built with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Platform {
    /// Machine of its libc.
    pub machine: Machine,
    /// Canonical path of the directory with libc.so.6.
    pub lib_dir: PathBuf,
    /// The directories built into its `ldconfig`, in the order of `ldconfig`.
    pub system_dirs: Vec<PathBuf>,
    /// The directories built into the loader, in the order in which it searches them after the cache.
    pub loader_dirs: Vec<PathBuf>,
    /// Canonical path of the loader.
    pub loader: Option<PathBuf>,
    /// Version of glibc, if a banner contains it.
    pub glibc: Option<(u32, u32)>,
    /// The loader's cache. `ld.so.conf` is next to it.
    pub cache: PathBuf,
}

impl Default for Platform {
    /// Debian's layout, for a root without a glibc.
    fn default() -> Self {
        let machine = Machine::NATIVE;
        let lib_dir = Path::new("/usr/lib").join(machine.triplet());
        Self::new(machine, lib_dir.clone(), guess(machine, &lib_dir), None, None)
    }
}

impl Platform {
    /// Detects the platform of this program's machine, or of 32-bit x86 if the root has no other. Returns `None` if there is no
    /// glibc (musl, static programs).
    pub fn detect(root: &RootDir) -> Option<Self> {
        [Machine::NATIVE, Machine::I386].into_iter().find_map(|machine| Self::detect_for(root, machine))
    }

    /// Detects the platform of `machine`, for example i386 in addition to amd64.
    pub fn detect_for(root: &RootDir, machine: Machine) -> Option<Self> {
        let loader = known_loader(root, machine).or_else(|| loader_of_programs(root, machine));
        let beside = loader.as_ref().and_then(|(path, _)| path.parent().map(Path::to_owned));
        let told = loader.iter().flat_map(|(_, loader)| loader.dirs.clone());
        // A loader in its own prefix has its libc there, whatever other libcs exist.
        let mut dirs = told.chain(beside).chain(machine.known_dirs());
        let lib_dir = dirs.find_map(|dir| libc_dir(root, &dir, machine))?;
        let loader = loader.or_else(|| loader_of(root, &lib_dir.join("libc.so.6"), machine));
        let (path, loader) = loader.unzip();
        let version = loader.as_ref().and_then(|loader| loader.glibc);
        let version = version.or_else(|| binary_strings::libc_version(root, &lib_dir.join("libc.so.6")));
        let loader = loader.unwrap_or_else(|| guess(machine, &lib_dir));
        Some(Self::new(machine, lib_dir, loader, path, version))
    }

    fn new(
        machine: Machine,
        lib_dir: PathBuf,
        built: Loader,
        loader: Option<PathBuf>,
        glibc: Option<(u32, u32)>,
    ) -> Self {
        let system_dirs = system_dirs(machine, &built.dirs, glibc);
        Self { machine, lib_dir, system_dirs, loader_dirs: built.dirs, loader, glibc, cache: built.cache }
    }

    /// Returns the path of the configuration that belongs to the cache.
    pub fn conf(&self) -> PathBuf {
        self.cache.with_file_name("ld.so.conf")
    }

    /// Returns whether `dir` is a built-in directory of both `ldconfig` and the loader, so that ld.so.conf need not contain it
    /// to keep its libraries in the cache. Directories are compared by device and inode.
    pub fn is_default_dir(&self, root: &RootDir, dir: &Path) -> bool {
        let identity = |dir: &Path| root.stat(dir).ok().map(|stat| (stat.dev, stat.ino));
        let Some(wanted) = identity(dir) else { return false };
        self.system_dirs.iter().any(|dir| identity(dir) == Some(wanted))
    }
}

/// Returns the directories of `ldconfig`. Debian's has the loader's list unchanged; upstream's was built with the loader's
/// two directories, and adds their siblings.
fn system_dirs(machine: Machine, loader_dirs: &[PathBuf], glibc: Option<(u32, u32)>) -> Vec<PathBuf> {
    let multiarch = |dir: &PathBuf| dir.ends_with(machine.triplet());
    if loader_dirs.len() > 2 || loader_dirs.iter().any(multiarch) {
        return loader_dirs.to_vec();
    }
    let mut dirs: Vec<PathBuf> = Vec::new();
    for dir in loader_dirs.iter().flat_map(|dir| machine.with_siblings(dir, glibc)) {
        if !dirs.contains(&dir) {
            dirs.push(dir);
        }
    }
    dirs
}

/// Guesses the settings of a loader from the location of libc.
fn guess(machine: Machine, lib_dir: &Path) -> Loader {
    let dirs: Vec<PathBuf> = if lib_dir.ends_with(machine.triplet()) {
        let multiarch = ["/lib", "/usr/lib"].map(|dir| Path::new(dir).join(machine.triplet()));
        multiarch.into_iter().chain(["/lib".into(), "/usr/lib".into()]).collect()
    } else if lib_dir == Path::new("/usr/lib") && machine != Machine::I386 {
        // Arch: built for this directory alone.
        vec![lib_dir.to_owned()]
    } else if lib_dir.starts_with("/usr/lib64") || lib_dir.starts_with("/lib64") {
        vec!["/lib64".into(), "/usr/lib64".into()]
    } else if lib_dir.starts_with("/usr/lib") || lib_dir.starts_with("/lib") {
        vec!["/lib".into(), "/usr/lib".into()]
    } else {
        vec![lib_dir.to_owned()]
    };
    Loader { dirs, cache: CACHE.into(), glibc: None }
}

/// Finds the loader under the names that programs are linked with.
fn known_loader(root: &RootDir, machine: Machine) -> Option<(PathBuf, Loader)> {
    let usual = ["/lib64", "/lib"].map(PathBuf::from);
    let mut dirs = usual.into_iter().chain(machine.known_dirs());
    dirs.find_map(|dir| read_loader(root, &dir.join(machine.loader_name()), machine))
}

/// Finds the loader that a program of the root names, for a glibc in its own prefix.
fn loader_of_programs(root: &RootDir, machine: Machine) -> Option<(PathBuf, Loader)> {
    let dirs = PROGRAM_DIRS.iter().map(Path::new);
    let names = dirs.flat_map(|dir| {
        let entries = root.list(dir).unwrap_or_default().into_iter();
        entries.filter(|e| matches!(e.kind, EntryType::File | EntryType::Link)).map(|e| dir.join(e.name))
    });
    let mut seen = BTreeSet::new();
    let named = names.take(MAX_PROGRAMS).filter_map(|path| interp(root, &path, machine));
    named
        .filter(|path| seen.insert(path.clone()))
        .take(MAX_LOADERS)
        .find_map(|path| read_loader(root, &path, machine))
}

/// Returns the loader that the file at `path` names; libc.so.6 names one too.
fn loader_of(root: &RootDir, path: &Path, machine: Machine) -> Option<(PathBuf, Loader)> {
    read_loader(root, &interp(root, path, machine)?, machine)
}

/// Returns the ELF interpreter of the file at `path`.
fn interp(root: &RootDir, path: &Path, machine: Machine) -> Option<PathBuf> {
    if !binary_strings::is_for(root, path, machine) {
        return None;
    }
    let file = root.open_file(path, u64::MAX).ok()?;
    Some(OsString::from_vec(elf::read(&file).ok()?.interp?).into())
}

fn read_loader(root: &RootDir, path: &Path, machine: Machine) -> Option<(PathBuf, Loader)> {
    let loader = binary_strings::loader(root, path, machine)?;
    Some((root.canonical(path).ok()?, loader))
}

/// Returns the canonical form of `dir` if it contains a libc of this machine.
fn libc_dir(root: &RootDir, dir: &Path, machine: Machine) -> Option<PathBuf> {
    let path = dir.join("libc.so.6");
    // Older Alpine versions have musl under this name too.
    let is_glibc = |soname: Vec<u8>| soname == b"libc.so.6";
    let file =
        root.open_file(&path, u64::MAX).ok().filter(|_| binary_strings::is_for(root, &path, machine))?;
    if elf::read(&file).ok()?.soname.is_some_and(is_glibc) { root.canonical(dir).ok() } else { None }
}
