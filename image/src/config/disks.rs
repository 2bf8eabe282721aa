//! The disks of a boot: how they are named, and which file systems the container gets besides its root.

use serde::{Deserialize, Serialize};

/// The name of a block device or of a directory that the host shares.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Source {
    /// A device node: `/dev/vda`.
    Device(String),
    /// A virtio disk by its serial number: `serial:root`.
    Serial(String),
    /// A virtiofs tag: `virtiofs:rootfs`.
    Virtiofs(String),
    /// Memory: `tmpfs` (upper layer only).
    Tmpfs,
    /// Nothing: `none`.
    None,
}

impl std::fmt::Display for Source {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Device(path) => out.write_str(path),
            Self::Serial(serial) => write!(out, "serial:{serial}"),
            Self::Virtiofs(tag) => write!(out, "virtiofs:{tag}"),
            Self::Tmpfs => out.write_str("tmpfs"),
            Self::None => out.write_str("none"),
        }
    }
}

/// An additional file system of the container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Volume {
    /// The disk of the file system: a device or a serial number.
    pub device: Source,
    /// Mount point in the container.
    pub path: String,
    /// How it is mounted.
    pub mode: VolumeMode,
}

/// How a [`Volume`] is mounted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum VolumeMode {
    /// Read-only.
    ReadOnly,
    /// Read and write.
    ReadWrite,
    /// Mounted read-only; writes go to another device.
    Overlay {
        /// The disk for the writes.
        upper: Source,
    },
}
