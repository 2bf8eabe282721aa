//! The data of an archive: bytes at any offset, for several readers at the same time.

use super::file_type::describe;
use crate::common::error::{Doing, Error, Result};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, FileTypeExt};
use std::path::Path;

/// Bytes that can be read at any offset.
pub trait Source: Send + Sync {
    /// Number of bytes.
    fn size(&self) -> u64;
    /// Reads at an offset. Fewer bytes than requested are returned only at the end.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;
}

impl Source for Vec<u8> {
    fn size(&self) -> u64 {
        self.len() as u64
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let from = usize::try_from(offset).unwrap_or(usize::MAX).min(self.len());
        let count = buffer.len().min(self.len() - from);
        buffer[..count].copy_from_slice(&self[from..from + count]);
        Ok(count)
    }
}

/// A file with its size when it was opened.
struct Disk {
    file: File,
    size: u64,
}

impl Source for Disk {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        FileExt::read_at(&self.file, buffer, offset)
    }
}

/// Opens a regular file or a disk.
pub fn open(path: &Path) -> Result<impl Source + use<>> {
    let kind = std::fs::metadata(path).doing("opening", path)?.file_type();
    if !kind.is_file() && !kind.is_block_device() {
        return Err(Error::new(format!("{}: expected a file, found {}", path.display(), describe(path)))
            .hint("pass an initramfs file"));
    }
    let mut file = File::open(path).doing("opening", path)?;
    let size = file.seek(SeekFrom::End(0)).doing("reading", path)?;
    Ok(Disk { file, size })
}

/// A part of a source as a stream.
pub struct Section<'a> {
    pub source: &'a dyn Source,
    pub position: u64,
    pub end: u64,
}

impl Read for Section<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.end.saturating_sub(self.position)).unwrap_or(usize::MAX);
        let most = left.min(buffer.len());
        let got = self.source.read_at(&mut buffer[..most], self.position)?;
        self.position += got as u64;
        Ok(got)
    }
}

impl Seek for Section<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let position = match to {
            SeekFrom::Start(position) => Some(position),
            SeekFrom::Current(more) => self.position.checked_add_signed(more),
            SeekFrom::End(more) => self.end.checked_add_signed(more),
        };
        self.position = position.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.position)
    }
}

/// A part of a source.
pub struct Part {
    pub source: Box<dyn Source>,
    pub offset: u64,
    pub size: u64,
}

impl Source for Part {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let left = usize::try_from(self.size.saturating_sub(offset)).unwrap_or(usize::MAX);
        let most = left.min(buffer.len());
        self.source.read_at(&mut buffer[..most], self.offset.saturating_add(offset))
    }
}

/// Reads exactly `N` bytes at an offset. If they are not there, this is an error.
pub fn exact<const N: usize>(source: &dyn Source, offset: u64) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    let mut got = 0;
    while got < N {
        match source.read_at(&mut bytes[got..], offset + got as u64)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            more => got += more,
        }
    }
    Ok(bytes)
}
