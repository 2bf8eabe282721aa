//! An initramfs that was opened, and the errors of what is in it.

use super::boot_config::{self, BootConfig};
use super::compression::Compression;
use super::source::{self, Part, Source};
use super::uki;
use crate::common::error::{Doing, Error, Result};
use serde::Serialize;
use std::io;
use std::path::{Path, PathBuf};

/// The remedy for a file that is not an initramfs.
pub(super) const NOT_ONE: &str = "check that the file is a whole initramfs; segments may be cpio (newc) as it is, or in gzip, xz, zstd, lz4 (legacy) or bzip2";

/// One compressed stream, or one archive that is not compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Segment {
    /// Where in the file it begins.
    pub offset: u64,
    /// Its bytes in the file, without zero bytes behind it.
    pub size: u64,
    /// How it is compressed.
    pub compression: Compression,
    /// Its bytes when unpacked.
    pub unpacked: u64,
}

/// An initramfs.
pub struct Archive {
    pub(super) path: PathBuf,
    /// What the kernel unpacks.
    pub(super) source: Box<dyn Source>,
    size: u64,
    pub(super) boot_config: Option<BootConfig>,
}

impl Archive {
    /// Opens a regular file or a disk. Of a unified kernel image the section with the initramfs is read, and offsets count from there.
    pub fn open(path: &Path) -> Result<Self> {
        let mut source: Box<dyn Source> = Box::new(source::open(path)?);
        if let Some((offset, size)) = uki::initrd(&*source).doing("reading", path)? {
            source = Box::new(Part { source, offset, size });
        }
        Self::new(path.to_owned(), source).doing("reading", path)
    }

    /// One in memory; `name` is what messages call it.
    pub fn of_bytes(name: &str, bytes: Vec<u8>) -> Self {
        Self::new(name.into(), Box::new(bytes)).expect("memory can be read")
    }

    fn new(path: PathBuf, source: Box<dyn Source>) -> io::Result<Self> {
        let (size, boot_config) = (source.size(), boot_config::find(&*source)?);
        let front = boot_config.map_or(size, |found| found.offset);
        Ok(Self { path, source: Box::new(Part { source, offset: 0, size: front }), size, boot_config })
    }

    /// Bytes of the file.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// An error at an offset of the file.
    pub(super) fn fault(&self, offset: u64, what: impl std::fmt::Display) -> Error {
        Error::new(format!("{}: at offset {offset}: {what}", self.path.display())).hint(NOT_ONE)
    }
}

/// An error in words; what the end of the file means in an archive is not what it means in general.
pub fn words(error: &io::Error) -> String {
    if error.kind() == io::ErrorKind::UnexpectedEof {
        return "the file ends before the archive does: it is cut short".to_owned();
    }
    error.to_string()
}
