//! Gives a container the driver's user-space files: the same version as the kernel modules, where its loader
//! looks.
//!
//! Two ways with one plan. A [`layer`](layer::layer) is a tree of hard links that becomes a lower layer of
//! the container's overlay: nothing is copied and the image is not touched. A [`copy`](copy::copy) goes into
//! a plain writable root. In both cases [`complete`] then writes the loader cache and asks which files the
//! loader will open.

pub mod copy;
pub mod layer;
mod plan;
#[cfg(test)]
mod tests;

use std::ffi::OsStr;
use std::path::Path;

use serde::Serialize;

use crate::ldcache::{self, CacheReport, LdCacheError, Via};
use crate::rootfs::{RootDir, RootError};

pub use self::plan::{Bits, Plan, plan};

/// The names that CUDA programs ask for. `libcuda.so` is what Triton and numba open.
const CHECKED: [&str; 3] = ["libcuda.so.1", "libcuda.so", "libnvidia-ml.so.1"];

/// Why the driver's files could not be given to the container.
#[derive(Debug, thiserror::Error)]
pub enum InjectError {
    /// Something in the container root failed.
    #[error(transparent)]
    Root(#[from] RootError),
    /// Something in the driver directory or in the layer failed.
    #[error("{place}")]
    Ours {
        /// Which of our own trees.
        place: &'static str,
        /// What failed. Its path is seen from that tree.
        #[source]
        source: RootError,
    },
    /// The container has no glibc, which the driver's libraries need.
    #[error(
        "no glibc in the container: expected libc.so.6 for this machine in /lib64, /usr/lib64, /lib, /usr/lib or \
         their {triplet} subdirectory; use an image with glibc (not Alpine, not scratch)"
    )]
    NoGlibc {
        /// Debian's name of this machine.
        triplet: &'static str,
    },
    /// There is nothing to inject.
    #[error(
        "no library for the container's machine among {found} files in {dir} of the driver; build the initrd for \
         this machine and with the compute capability"
    )]
    NoLibraries {
        /// Which directory.
        dir: &'static str,
        /// How many files were there.
        found: usize,
    },
    /// The loader cache could not be written.
    #[error(transparent)]
    Cache(#[from] LdCacheError),
}

/// Kind of an injected name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ItemKind {
    /// A file of the driver.
    File,
    /// A link that the driver's files need.
    Link,
}

/// One name that the container gets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Item {
    /// Path in the container.
    pub path: String,
    /// What it is.
    pub kind: ItemKind,
    /// For a file its path in the driver directory, for a link what it points to.
    pub target: String,
    /// SONAME of a library.
    pub soname: Option<String>,
}

/// Which file the container's loader opens for a name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Resolution {
    /// The name asked for.
    pub soname: String,
    /// The path that the loader opens; nothing when it finds none.
    pub path: Option<String>,
    /// The file behind it.
    pub file: Option<String>,
    /// How the loader gets there.
    pub via: Option<Via>,
    /// Whether that file is one that was injected. If not, the container brings its own driver along, of what
    /// version ever.
    pub injected: bool,
}

/// What the container got. Names are text, with what is not UTF-8 replaced: the report travels.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct InjectReport {
    /// Directory of the container's libraries.
    pub lib_dir: String,
    /// Everything that the container gets, whether it had to be made or was there.
    pub items: Vec<Item>,
    /// Files of other driver versions that are hidden.
    pub masked: Vec<String>,
    /// How many names were made or changed. 0 when everything was in place.
    pub changed: usize,
    /// The loader cache, once [`complete`] has run.
    pub cache: Option<CacheReport>,
    /// What the loader finds, once [`complete`] has run.
    pub resolved: Vec<Resolution>,
    /// What was passed over and why.
    pub warnings: Vec<String>,
}

/// Writes the loader cache of `root`, the container as its programs will see it, and asks which files its
/// loader opens. `library_path` is the container's `LD_LIBRARY_PATH`, which beats the cache.
///
/// # Errors
/// [`InjectError::Cache`] when the cache cannot be written.
pub fn complete(
    root: &RootDir,
    library_path: Option<&OsStr>,
    report: &mut InjectReport,
) -> Result<(), InjectError> {
    let cache = ldcache::build(root)?;
    report.changed += cache.report.links.len();
    report.changed += usize::from(cache.write(root)?);
    report.cache = Some(cache.report);
    report.resolved = CHECKED.iter().map(|soname| check(root, soname, library_path, &report.items)).collect();
    Ok(())
}

fn check(root: &RootDir, soname: &str, library_path: Option<&OsStr>, items: &[Item]) -> Resolution {
    let found = ldcache::resolve(root, soname, library_path);
    let is_ours = |file: &str| items.iter().any(|i| i.kind == ItemKind::File && i.path == file);
    let file = found.as_ref().map(|f| text(&f.file));
    Resolution {
        soname: soname.to_owned(),
        injected: file.as_deref().is_some_and(is_ours),
        via: found.as_ref().map(|f| f.via),
        path: found.map(|f| text(&f.path)),
        file,
    }
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}
