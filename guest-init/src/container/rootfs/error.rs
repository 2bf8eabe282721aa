//! Why the container root could not be assembled.

use crate::confined_fs::RootError;
use crate::driver_files::InjectError;
use crate::kernel::bounded::TimedOut;
use crate::kernel::disks::DiskError;
use image::capability::UnknownCapability;
use nix::errno::Errno;
use std::io;

/// Why the container root could not be assembled.
#[derive(Debug, thiserror::Error)]
pub enum RootfsError {
    /// The disk of the root did not appear, or cannot be mounted.
    #[error("cannot use the container root")]
    Disk(#[source] DiskError),
    /// None of the default disks appeared.
    #[error("cannot use the container root: no disk after {waited} s: none of {names} appeared")]
    NoDisk {
        /// Seconds.
        waited: u64,
        /// The disks, with commas.
        names: String,
    },
    /// A virtiofs share cannot be mounted.
    #[error("cannot use the container root: virtiofs tag {tag}: {errno}")]
    Virtiofs {
        /// Its tag.
        tag: String,
        /// The kernel's error.
        errno: Errno,
    },
    /// The configured source cannot be a root.
    #[error("cannot use the container root: gpu_initrd.root does not support {0}")]
    Unsupported(String),
    /// The root itself should be written to, but is read-only.
    #[error(
        "gpu_initrd.upper=none requires a writable root, but its file system or disk is read-only: attach a writable ext4 disk, or send writes elsewhere (gpu_initrd.upper=tmpfs)"
    )]
    ReadOnly,
    /// The disk of the upper layer did not appear, or cannot be mounted.
    #[error("cannot assemble the container root: the upper layer")]
    Upper(#[source] DiskError),
    /// The directories of the upper layer cannot be created.
    #[error("cannot assemble the container root: the upper layer: {0}")]
    Scratch(io::Error),
    /// The kernel cannot mount the overlay.
    #[error("cannot assemble the container root: overlay ({options}): {errno}")]
    Overlay {
        /// Its mount options.
        options: String,
        /// The kernel's error.
        errno: Errno,
        /// Lines of the kernel's log.
        log: Vec<String>,
    },
    /// A layer of an overlay does not respond.
    #[error("cannot assemble the container root")]
    TimedOut(#[from] TimedOut),
    /// The container requests a capability that does not exist.
    #[error(transparent)]
    Capability(#[from] UnknownCapability),
    /// A directory for the driver's layers cannot be created.
    #[error("cannot add the driver files to the container: {directory}: {source}")]
    LayerDirectory {
        /// Which directory.
        directory: &'static str,
        /// The error of the system.
        source: io::Error,
    },
    /// The image, the driver files or the upper layer cannot be opened.
    #[error("cannot add the driver files to the container")]
    Open(#[source] RootError),
    /// The kernel cannot mount the driver files as a layer.
    #[error("cannot mount the driver files as a layer ({options}): {errno}")]
    Layer {
        /// Its mount options.
        options: String,
        /// The kernel's error.
        errno: Errno,
        /// Lines of the kernel's log.
        log: Vec<String>,
    },
    /// The driver files cannot be added.
    #[error(transparent)]
    Inject(#[from] InjectError),
    /// The loader cache cannot be written.
    #[error("cannot write the loader cache")]
    Cache(#[source] InjectError),
}
