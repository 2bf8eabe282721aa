//! Reads any initramfs: segments of newc archives, each compressed or not.
//!
//! It reads what the kernel's unpacker would read (init/initramfs.c): zero bytes between segments, archives that begin at
//! a multiple of four bytes, several archives in one compressed stream. Input that the kernel would refuse or read
//! differently is an error. The unpacked result is a [`Tree`]. The file is not trusted: every length is limited, and
//! anything that is not an archive is an error with its offset.

mod blocks;
mod boot_config;
pub mod codec;
pub(crate) mod contents;
pub mod cpio;
mod detect;
pub mod extract;
pub(crate) mod file_type;
mod lz4;
mod lzop;
pub(crate) mod manifest;
mod source;
mod strict;
mod take;
#[cfg(test)]
mod tests;
mod tree;
mod uki;
mod walk;

pub use self::boot_config::BootConfig;
pub use self::contents::{Contents, Item, Want, absolute};
pub use self::detect::Compression;
pub use self::source::Source;
pub use self::take::{take, take_one};
pub use self::tree::{Left, Remark, Tree};
pub use self::walk::{Content, EntryPosition};

use crate::common::error::{Doing, Error, Result};
use crate::common::parallel;
use cpio::Entry;
use detect::{Located, Locator};
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use walk::{Bounds, unpack, words};

/// A file with that many segments is none that a tool made.
const MAX_SEGMENTS: usize = 65_536;

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
    path: PathBuf,
    /// What the kernel unpacks.
    source: Box<dyn Source>,
    size: u64,
    boot_config: Option<BootConfig>,
}

impl Archive {
    /// Opens a regular file or a disk. Of a unified kernel image the section with the initramfs is read, and offsets count from there.
    pub fn open(path: &Path) -> Result<Self> {
        let mut source: Box<dyn Source> = Box::new(source::open(path)?);
        if let Some((offset, size)) = uki::initrd(&*source).doing("reading", path)? {
            source = Box::new(source::Part { source, offset, size });
        }
        Self::new(path.to_owned(), source).doing("reading", path)
    }

    /// One in memory; `name` is what messages call it.
    pub fn of_bytes(name: &str, bytes: Vec<u8>) -> Self {
        Self::new(name.into(), Box::new(bytes)).expect("memory can be read")
    }

    fn new(path: PathBuf, source: Box<dyn Source>) -> std::io::Result<Self> {
        let (size, boot_config) = (source.size(), boot_config::find(&*source)?);
        let front = boot_config.map_or(size, |found| found.offset);
        Ok(Self {
            path,
            source: Box::new(source::Part { source, offset: 0, size: front }),
            size,
            boot_config,
        })
    }

    /// Bytes of the file.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The segments. What is compressed is unpacked only where its header does not say to how much, and what is in it
    /// is not looked at.
    pub fn segments(&self) -> Result<Vec<Segment>> {
        let bounds = Bounds::default();
        let done = self.each(|located, index| {
            let known = located.size.zip(located.unpacked);
            let segment = match known {
                Some((size, unpacked)) => {
                    let Located { offset, compression, .. } = *located;
                    Segment { offset, size, compression, unpacked }
                }
                None => walk::measure(self, located, index, &bounds)?,
            };
            Ok((segment, ()))
        })?;
        Ok(done.into_iter().map(|(segment, ())| segment).collect())
    }

    /// Shows every entry of every segment to `visit`, in order, with its content.
    pub fn walk(
        &self,
        mut visit: impl FnMut(EntryPosition, &Entry, &mut Content) -> Result<()>,
    ) -> Result<Vec<Segment>> {
        let bounds = Bounds::default();
        let mut locator = Locator::new(self);
        let mut segments = Vec::new();
        while let Some(located) = locator.next_segment()? {
            let segment = unpack(self, &located, segments.len(), &bounds, &mut visit)?;
            locator.position = segment.offset + segment.size;
            segments.push(segment);
        }
        self.some(segments)
    }

    /// Every entry, with what is wanted of its content. Segments whose ends are known are unpacked at the same time.
    pub fn read(&self, want: &Want) -> Result<Contents> {
        let bounds = Bounds::default();
        let done = self.each(|located, index| {
            let mut items = Vec::new();
            let mut visit = |place: EntryPosition, entry: &Entry, content: &mut Content| {
                items.push(want.item(place, entry, content, &bounds)?);
                Ok(())
            };
            let segment = unpack(self, located, index, &bounds, &mut visit)?;
            Ok((segment, items))
        })?;
        let (segments, items): (Vec<_>, Vec<_>) = done.into_iter().unzip();
        let items = items.into_iter().flatten().collect();
        Ok(Contents { segments, items, boot_config: self.boot_config })
    }

    /// Does `work` for each segment, on all processors where a segment's end is known before it is unpacked.
    fn each<T: Send>(
        &self,
        work: impl Fn(&Located, usize) -> Result<(Segment, T)> + Sync,
    ) -> Result<Vec<(Segment, T)>> {
        let mut results = Vec::new();
        let mut locator = Locator::new(self);
        let mut known = Vec::new();
        let mut count = 0;
        // What comes before a fault is looked at first: its own fault is the one to tell.
        let mut fault = None;
        loop {
            let located = match locator.next_segment() {
                Ok(Some(located)) => located,
                Ok(None) => break,
                Err(error) => {
                    fault = Some(error);
                    break;
                }
            };
            let index = count;
            count += 1;
            if let Some(size) = located.size {
                locator.position = located.offset + size;
                known.push((index, located));
                continue;
            }
            let result = work(&located, index);
            let end = result.as_ref().map(|(segment, _)| segment.offset + segment.size);
            let end = end.map_err(|_| ());
            results.push((index, result));
            match end {
                Ok(end) => locator.position = end,
                Err(()) => break,
            }
        }
        // Their own errors count after those of segments before them, so none ends this.
        let finish = |(index, located): &(usize, Located)| Ok((*index, work(located, *index)));
        results.extend(parallel::map(&known, parallel::processors(), finish)?);
        results.sort_by_key(|(index, _)| *index);
        let done: Vec<_> = results.into_iter().map(|(_, result)| result).collect::<Result<_>>()?;
        fault.map_or_else(|| self.some(done), Err)
    }

    /// A segment that was unpacked, where the kernel unpacks it, too.
    fn as_the_kernel_reads_it(&self, segment: Segment) -> Result<Segment> {
        strict::whole(&*self.source, &segment).map_err(|error| self.fault(segment.offset, words(&error)))?;
        Ok(segment)
    }

    fn some<T>(&self, segments: Vec<T>) -> Result<Vec<T>> {
        if !segments.is_empty() {
            return Ok(segments);
        }
        let message =
            format!("{}: expected an initramfs, found {} zero bytes", self.path.display(), self.size());
        Err(Error::new(message).hint(NOT_ONE))
    }

    /// An error at an offset of the file.
    fn fault(&self, offset: u64, what: impl std::fmt::Display) -> Error {
        Error::new(format!("{}: at offset {offset}: {what}", self.path.display())).hint(NOT_ONE)
    }
}

const NOT_ONE: &str = "check that the file is a whole initramfs; segments may be cpio (newc) as it is, or in gzip, xz, zstd, lz4 (legacy) or bzip2";

/// Adds to a counter that has a bound.
fn add(counter: &AtomicU64, more: u64, most: u64, what: &str) -> std::io::Result<()> {
    let before = counter.fetch_add(more, Ordering::Relaxed);
    if before.saturating_add(more) <= most {
        return Ok(());
    }
    Err(std::io::Error::other(format!("more than {most} {what}: this is taken for an attack")))
}
