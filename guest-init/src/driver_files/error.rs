//! Why the driver files could not be added to a container.

use std::path::PathBuf;

use image::manifest::ManifestError;

use super::notice::Notice;
use crate::confined_fs::RootError;
use crate::ldcache::LdCacheError;

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
    #[error(transparent)]
    Refused(Box<Notice>),
    /// The root has too little space.
    #[error("not enough space for the driver files in {}: {needed} bytes needed, {found} free", dir.display())]
    NoSpace {
        /// The destination directory.
        dir: PathBuf,
        /// Bytes needed.
        needed: u64,
        /// Bytes free.
        found: u64,
    },
    /// The loader cache could not be written.
    #[error(transparent)]
    Cache(#[from] LdCacheError),
}

fn link_out(link: Option<&(PathBuf, PathBuf)>) -> String {
    let Some((path, target)) = link else { return String::new() };
    format!(
        "; {} is a link to {}, which is outside the directory: use a directory that contains both, such as /",
        path.display(),
        target.display()
    )
}

/// The error of a file in the driver directory.
pub(super) fn in_driver(source: RootError) -> InjectError {
    InjectError::Ours { place: "cannot read the driver directory of the initrd", source }
}
