//! Chooses where the driver files go in a container, according to its loaders and never to the name of its distribution.

use std::path::{Path, PathBuf};

use crate::confined_fs::{EntryType, RootDir};
use crate::ldcache::{Machine, Platform};

/// Directory of programs.
const BIN_DIR: &str = "/usr/bin";
/// Stores of Nix and Guix. Their loaders read no system cache; programs search [`RUN_LINK`] if they were built to do so.
const STORES: [&str; 2] = ["/nix/store", "/gnu/store"];
/// Path at which programs of Nix search for a driver.
pub const RUN_LINK: &str = "/run/opengl-driver";
/// Target of [`RUN_LINK`]: a directory that contains only the driver, since the container's other libraries would mix
/// two versions of glibc.
pub const STORE_DIR: &str = "/var/lib/gpu-initrd/opengl-driver";
/// The library of gcompat, which lets musl's loader run programs of glibc.
const GCOMPAT: [&str; 2] = ["/lib/libgcompat.so.0", "/usr/lib/libgcompat.so.0"];

/// The destinations in one container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Places {
    /// Directories of libraries, the one of the container's main loader first.
    pub libraries: Vec<PathBuf>,
    /// Directory of 32-bit libraries, if there is a loader for them.
    pub libraries32: Option<PathBuf>,
    /// Directory of programs.
    pub programs: PathBuf,
    /// The loader of the first directory.
    pub loader: Loader,
    /// Whether the container has programs of Nix or Guix.
    pub store: bool,
}

/// The kind of loader.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Loader {
    /// glibc's, with its cache.
    Glibc(Box<Platform>),
    /// musl's, with gcompat.
    Musl,
    /// Only loaders in a store, each for its own programs.
    Store,
}

impl Places {
    /// Returns the version of the glibc that loads the libraries, if known.
    pub fn glibc(&self) -> Option<(u32, u32)> {
        match &self.loader {
            Loader::Glibc(platform) => platform.glibc,
            Loader::Musl | Loader::Store => None,
        }
    }

    /// Detects the loaders of `root`. Returns `None` if none can load the driver's libraries.
    pub fn of(root: &RootDir) -> Option<Self> {
        let store = STORES.iter().any(|dir| is_directory(root, dir));
        // Canonical, as everything that is compared with what is found in the root.
        let store_dir = || root.canonical_as_far(&Path::new(STORE_DIR).join("lib"));
        // A glibc in the store is that of the store's programs alone.
        let platform = Platform::detect(root)
            .filter(|platform| !STORES.iter().any(|store| platform.lib_dir.starts_with(store)));
        let loader = match platform {
            Some(platform) => Loader::Glibc(Box::new(platform)),
            None if GCOMPAT.iter().any(|path| is_file(root, path)) => Loader::Musl,
            None if store => Loader::Store,
            None => return None,
        };
        let main = match &loader {
            Loader::Glibc(platform) => Some(platform.lib_dir.clone()),
            Loader::Musl => Some(root.canonical_as_far(Path::new("/usr/lib"))),
            Loader::Store => None,
        };
        let libraries32 = match &loader {
            Loader::Glibc(platform) if platform.machine == Machine::X86_64 => {
                Platform::detect_for(root, Machine::I386).map(|platform| platform.lib_dir)
            }
            _ => None,
        };
        Some(Self {
            libraries: main.into_iter().chain(store.then(store_dir)).collect(),
            libraries32,
            programs: root.canonical_as_far(Path::new(BIN_DIR)),
            loader,
            store,
        })
    }
}

/// Describes the C library of a container.
pub fn libc(root: &RootDir) -> String {
    libc_at(root, Places::of(root).as_ref())
}

/// [`libc`], for a container whose places are known.
pub(crate) fn libc_at(root: &RootDir, places: Option<&Places>) -> String {
    match places.map(|places| &places.loader) {
        Some(Loader::Glibc(platform)) => match platform.glibc {
            Some((major, minor)) => format!("glibc {major}.{minor}"),
            None => "glibc".into(),
        },
        Some(Loader::Musl) => "musl with gcompat".into(),
        Some(Loader::Store) => "store of Nix or Guix".into(),
        None if is_file(root, &format!("/lib/ld-musl-{}.so.1", std::env::consts::ARCH)) => "musl".into(),
        None => "none".into(),
    }
}

fn is_directory(root: &RootDir, path: &str) -> bool {
    root.stat(Path::new(path)).is_ok_and(|stat| stat.kind == EntryType::Directory)
}

fn is_file(root: &RootDir, path: &str) -> bool {
    root.stat(Path::new(path)).is_ok_and(|stat| stat.kind == EntryType::File)
}
