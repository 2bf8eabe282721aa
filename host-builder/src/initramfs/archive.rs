//! An opened initramfs, and the errors in its content.

use super::boot_config::{self, BootConfig};
use super::compression::Compression;
use super::source::{self, Part, Source};
use super::uki;
use crate::common::error::{Doing, Error, Result};
use serde::Serialize;
use std::io;
use std::path::{Path, PathBuf};

/// The remedy for a file that is not an initramfs.
pub(super) const NOT_ONE: &str = "check that the file is a complete initramfs; segments may be cpio (newc), uncompressed or in gzip, xz, zstd, lz4 (legacy) or bzip2";

/// One compressed stream, or one uncompressed archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Segment {
    /// Its offset in the file.
    pub offset: u64,
    /// Its size in the file, without zero bytes after it.
    pub size: u64,
    /// How it is compressed.
    pub compression: Compression,
    /// Its unpacked size in bytes.
    pub unpacked: u64,
}

/// An initramfs.
pub struct Archive {
    pub(super) path: PathBuf,
    /// The part of the file that the kernel unpacks.
    pub(super) source: Box<dyn Source>,
    size: u64,
    pub(super) boot_config: Option<BootConfig>,
}

impl Archive {
    /// Opens a regular file or a disk. In a unified kernel image, the section with the initramfs is
    /// read, and offsets start there.
    pub fn open(path: &Path) -> Result<Self> {
        let mut source: Box<dyn Source> = Box::new(source::open(path)?);
        if let Some((offset, size)) = uki::initrd(&*source).doing("reading", path)? {
            source = Box::new(Part { source, offset, size });
        }
        Self::new(path.to_owned(), source).doing("reading", path)
    }

    /// An initramfs in memory; `name` is its name in messages.
    pub fn of_bytes(name: &str, bytes: Vec<u8>) -> Self {
        Self::new(name.into(), Box::new(bytes)).expect("memory can be read")
    }

    fn new(path: PathBuf, source: Box<dyn Source>) -> io::Result<Self> {
        let (size, boot_config) = (source.size(), boot_config::find(&*source)?);
        let front = boot_config.map_or(size, |found| found.offset);
        Ok(Self { path, source: Box::new(Part { source, offset: 0, size: front }), size, boot_config })
    }

    /// Size of the file in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// An error at an offset of the file.
    pub(super) fn fault(&self, offset: u64, what: impl std::fmt::Display) -> Error {
        Error::new(format!("{}: at offset {offset}: {what}", self.path.display())).hint(NOT_ONE)
    }
}

/// The text of an I/O error. The end of the file has its own text, because in an archive it means
/// truncation.
pub fn words(error: &io::Error) -> String {
    if error.kind() == io::ErrorKind::UnexpectedEof {
        return "the file ends before the archive does: it is truncated".to_owned();
    }
    error.to_string()
}
