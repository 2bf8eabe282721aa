//! Adds the driver's user-space files to a container, in the version of the kernel modules and where the container's
//! loader searches.
//!
//! A plan is derived from the [`Inventory`] and the container's [`ContainerRequest`], and applied in one of two ways. A
//! [`layer`](layer::layer) is a tree of hard links that becomes a lower layer of the container's overlay: nothing is copied
//! and the image does not change. A [`copy`](copy::copy) goes into a plain writable root. In both cases [`complete`] then
//! writes the loader cache and checks which files the loader will open.

pub(crate) mod bundled;
pub mod copy;
pub(crate) mod copy_record;
pub(crate) mod cuda_compat;
pub(crate) mod destination;
mod directory;
mod icd;
mod inventory;
pub mod layer;
mod libc_fit;
pub(crate) mod loader_setup;
mod musl;
pub(crate) mod notice;
pub mod payload;
mod plan;
mod request;
mod search;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use image::manifest::ManifestError;
use image::status::Finding;
use serde::Serialize;

use crate::confined_fs::RootError;
use crate::ldcache::{CacheReport, LdCacheError, Via};

pub use self::destination::{RUN_LINK, STORE_DIR, libc};
pub use self::inventory::{Inventory, is_driver_program};
pub use self::loader_setup::complete;
pub use self::plan::{Plan, PlannedFile, plan};
pub use self::request::{ContainerRequest, DEFAULT_PATH};

/// Why the driver files could not be added to the container.
#[derive(Debug, thiserror::Error)]
pub enum InjectError {
    /// Something in the container root failed.
    #[error(transparent)]
    Root(#[from] RootError),
    /// Something in the driver directory or in the layer failed.
    #[error("{place}")]
    Ours {
        /// Which directory, as an error message.
        place: &'static str,
        /// What failed. Its path is relative to that directory.
        #[source]
        source: RootError,
    },
    /// The container has no glibc, which the driver's libraries require.
    #[error(
        "no glibc in the container image: expected libc.so.6 for this machine in /lib64, /usr/lib64, /lib, /usr/lib or \
         their {triplet} subdirectory; use an image with glibc (not Alpine, not scratch)"
    )]
    NoGlibc {
        /// Debian's name of this machine.
        triplet: &'static str,
    },
    /// A non-empty directory is in place of a driver file.
    #[error(
        "{} in the container root: found a non-empty directory where a driver file belongs; remove it from the image",
        path.display()
    )]
    DirectoryInTheWay {
        /// Which path.
        path: PathBuf,
    },
    /// There is nothing to inject.
    #[error(
        "no library for the container's machine among {found} files in {dir} of the driver; build the initrd for \
         this machine and with the compute capability"
    )]
    NoLibraries {
        /// Which directory.
        dir: &'static str,
        /// Number of files found.
        found: usize,
    },
    /// The driver directory has a manifest that cannot be read.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// The driver directory holds no driver.
    #[error(
        "no driver in the driver directory: expected libcuda.so.VERSION or libnvidia-ml.so.VERSION in one of {searched}, or in an nvidia directory below one of them{}",
        link_out(outward.as_ref())
    )]
    NoDriver {
        /// The directories searched.
        searched: String,
        /// A link with a driver's name that leads out of the directory, and its target.
        outward: Option<(PathBuf, PathBuf)>,
    },
    /// The driver directory holds more than one driver.
    #[error("the driver directory contains several driver versions: {found}; expected one")]
    DriverVersions {
        /// Their versions.
        found: String,
    },
    /// The container contains driver files, which the policy refuses.
    #[error("{}", .0.message)]
    Refused(Box<Finding>),
    /// The root has too little space.
    #[error("not enough space for the driver files in {}: {needed} bytes needed, {found} free", dir.display())]
    NoSpace {
        /// The destination directory.
        dir: std::path::PathBuf,
        /// Bytes needed.
        needed: u64,
        /// Bytes free.
        found: u64,
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
    /// A link that the driver files need.
    Link,
}

/// One name added to the container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Item {
    /// Path in the container.
    pub path: String,
    /// What it is.
    pub kind: ItemKind,
    /// For a file its path in the driver directory, for a link its target.
    pub target: String,
    /// SONAME of a library.
    pub soname: Option<String>,
}

/// Which file the container's loader opens for a name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Resolution {
    /// The requested name.
    pub soname: String,
    /// The path that the loader opens; `None` if it finds none.
    pub path: Option<String>,
    /// The file behind it.
    pub file: Option<String>,
    /// The driver version in the name of that file.
    pub version: Option<String>,
    /// How the loader finds it.
    pub via: Option<Via>,
    /// Whether it is the expected file: an injected one, or one of the selected compatibility libraries. Otherwise the
    /// container has its own driver.
    pub expected: bool,
}

/// Report of an injection. Names are text, in which invalid UTF-8 is replaced, since the report is sent as JSON.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct InjectReport {
    /// Version of the driver.
    pub version: Option<String>,
    /// What loads the container's libraries: `glibc 2.36`, `musl with gcompat`, `store of Nix or Guix`; `musl` or `none` if
    /// nothing can load the driver's libraries.
    pub libc: String,
    /// Directory of the container's libraries.
    pub lib_dir: String,
    /// Whether the container has a store of Nix or Guix, and so needs the link [`RUN_LINK`].
    pub store: bool,
    /// Everything that the container receives, whether created or present already.
    pub items: Vec<Item>,
    /// Hidden driver files of the image.
    pub masked: Vec<String>,
    /// Files of an earlier driver that were removed.
    pub removed: Vec<String>,
    /// Directory of the CUDA compatibility libraries that are used.
    pub compat_dir: Option<String>,
    /// Number of names created or changed. 0 if everything was in place.
    pub changed: usize,
    /// The loader cache, after [`complete`].
    pub cache: Option<CacheReport>,
    /// What the loader finds, after [`complete`].
    pub resolved: Vec<Resolution>,
    /// Findings for the operator.
    pub findings: Vec<Finding>,
    /// What was skipped, and why.
    pub warnings: Vec<String>,
}

fn link_out(link: Option<&(PathBuf, PathBuf)>) -> String {
    let Some((path, target)) = link else { return String::new() };
    format!(
        "; {} is a link to {}, which is outside the directory: use a directory that contains both, such as /",
        path.display(),
        target.display()
    )
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}
