//! Reads the archives of one segment.

use super::archive::{Archive, Segment, words};
use super::codec::{Counted, decoder};
use super::compression::Compression;
use super::cpio::{Entry, Reader};
use super::detect::Located;
use super::source::Section;
use super::strict;
use crate::common::error::{Error, Result};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

/// Most unpacked bytes of all segments together.
const MAX_UNPACKED: u64 = 16 << 30;
/// Most entries of all segments together.
const MAX_ENTRIES: u64 = 250_000;
/// Most bytes of all their names together.
const MAX_NAMES: u64 = 64 << 20;
/// Most bytes of content that is kept in memory.
pub const MAX_KEPT: u64 = 1 << 30;
const READ_BUFFER: usize = 1 << 18;
const UNPACK_BUFFER: usize = 1 << 17;

/// Counters over all segments.
#[derive(Default)]
pub struct Bounds {
    unpacked: AtomicU64,
    entries: AtomicU64,
    names: AtomicU64,
    pub kept: AtomicU64,
}

/// The position of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntryPosition {
    /// Number of the segment, from 0.
    pub segment: usize,
    /// Number of the archive in it, from 0: hard links are between entries of one archive.
    pub archive: usize,
}

/// The content of an entry, to be read or skipped.
pub struct Content<'a> {
    input: &'a mut dyn Read,
    archive: &'a Archive,
    offset: u64,
}

impl Content<'_> {
    /// The error of reading the content, with its position.
    pub fn fault(&self, entry: &Entry, error: &io::Error) -> Error {
        self.archive.fault(self.offset, format!("the content of {:?}: {}", entry.text(), words(error)))
    }

    /// Reads all of it.
    pub fn bytes(&mut self, entry: &Entry, most: u32) -> Result<Vec<u8>> {
        if entry.size > most {
            let message = format!("{:?} has {} bytes, expected at most {most}", entry.text(), entry.size);
            return Err(self.archive.fault(self.offset, message));
        }
        let mut bytes = Vec::new();
        self.input.read_to_end(&mut bytes).map_err(|error| self.fault(entry, &error))?;
        Ok(bytes)
    }

    /// Copies all of it to `out`, which has the name `place` in messages.
    pub fn copy(&mut self, entry: &Entry, out: &mut dyn Write, place: &Path) -> Result<()> {
        use crate::common::error::Doing;
        let mut buffer = vec![0; UNPACK_BUFFER.min(entry.size as usize + 1)];
        loop {
            let got = self.input.read(&mut buffer).map_err(|error| self.fault(entry, &error))?;
            if got == 0 {
                return Ok(());
            }
            out.write_all(&buffer[..got]).doing("writing", place)?;
        }
    }
}

/// Counts the output of a decoder, and ends it at the limit.
struct Bounded<'a, R> {
    inner: R,
    bounds: &'a Bounds,
    count: u64,
}

impl<R: Read> Read for Bounded<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let got = self.inner.read(buffer)?;
        self.count += got as u64;
        add(&self.bounds.unpacked, got as u64, MAX_UNPACKED, "bytes unpacked")?;
        Ok(got)
    }
}

type Visit<'v> = dyn FnMut(EntryPosition, &Entry, &mut Content) -> Result<()> + 'v;

/// A segment that is being read.
struct Walker<'a> {
    archive: &'a Archive,
    bounds: &'a Bounds,
    offset: u64,
    place: EntryPosition,
}

/// Calls `visit` for the entries of a segment.
pub fn unpack(
    archive: &Archive,
    located: &Located,
    index: usize,
    bounds: &Bounds,
    visit: &mut Visit,
) -> Result<Segment> {
    let Located { offset, compression, .. } = *located;
    let place = EntryPosition { segment: index, archive: 0 };
    let mut walker = Walker { archive, bounds, offset, place };
    if compression == Compression::None {
        let mut input = section(archive, located);
        let size = walker.archive(&mut input, 0, &mut seek, visit)?;
        return Ok(Segment { offset, size, compression, unpacked: size });
    }
    let mut input = Counted::new(section(archive, located));
    let stream = decoder(compression, &mut input).map_err(|error| walker.fault(0, &error))?;
    let mut stream = BufReader::with_capacity(UNPACK_BUFFER, Bounded { inner: stream, bounds, count: 0 });
    let mut position = 0;
    loop {
        position += zeros(&mut stream).map_err(|error| walker.fault(position, &error))?;
        let buffer = stream.fill_buf().map_err(|error| walker.fault(position, &error))?;
        match buffer.first() {
            None => break,
            Some(b'0') if position.is_multiple_of(4) => {}
            Some(_) => {
                return Err(walker.fault(position, &io::Error::other("expected an archive or the end")));
            }
        }
        position += walker.archive(&mut stream, position, &mut discard, visit)?;
        walker.place.archive += 1;
    }
    if walker.place.archive == 0 {
        return Err(walker.fault(0, &io::Error::other("it contains no archive")));
    }
    let unpacked = stream.get_ref().count;
    drop(stream);
    accepted(archive, Segment { offset, size: input.taken, compression, unpacked })
}

/// Checks that the kernel would unpack this segment with the same result.
fn accepted(archive: &Archive, segment: Segment) -> Result<Segment> {
    strict::whole(&*archive.source, &segment)
        .map_err(|error| archive.fault(segment.offset, words(&error)))?;
    Ok(segment)
}

/// The packed and unpacked size of a segment. The content is read only if it is not compressed.
pub fn measure(archive: &Archive, located: &Located, index: usize, bounds: &Bounds) -> Result<Segment> {
    let Located { offset, compression, .. } = *located;
    if compression == Compression::None {
        return unpack(archive, located, index, bounds, &mut |_, _, _| Ok(()));
    }
    let failed = |error: io::Error| archive.fault(offset, format!("{compression}: {}", words(&error)));
    let mut input = Counted::new(section(archive, located));
    let inner = decoder(compression, &mut input).map_err(failed)?;
    let mut stream = Bounded { inner, bounds, count: 0 };
    let mut buffer = vec![0; UNPACK_BUFFER];
    while stream.read(&mut buffer).map_err(failed)? > 0 {}
    let unpacked = stream.count;
    drop(stream);
    accepted(archive, Segment { offset, size: input.taken, compression, unpacked })
}

fn section<'a>(archive: &'a Archive, located: &Located) -> BufReader<Section<'a>> {
    let end = located.size.map_or(archive.size(), |size| located.offset + size);
    let section = Section { source: &*archive.source, position: located.offset, end };
    // In an uncompressed archive, there is little to read between large files.
    let capacity = if located.compression == Compression::None { 1 << 14 } else { READ_BUFFER };
    BufReader::with_capacity(capacity, section)
}

impl Walker<'_> {
    /// Reads one archive, which starts at `position` of the unpacked segment. Returns its size.
    fn archive<R: BufRead>(
        &mut self,
        input: &mut R,
        position: u64,
        skip: &mut dyn FnMut(&mut R, u64) -> io::Result<()>,
        visit: &mut Visit,
    ) -> Result<u64> {
        let mut reader = Reader::new(input);
        loop {
            let at = position + reader.position();
            reader.skip_content(|input, left| skip(input, left)).map_err(|error| self.fault(at, &error))?;
            let entry = reader.next_entry().map_err(|error| self.fault(at, &error))?;
            let Some(entry) = entry else { return Ok(reader.position()) };
            add(&self.bounds.entries, 1, MAX_ENTRIES, "entries")
                .and_then(|()| add(&self.bounds.names, entry.name.len() as u64, MAX_NAMES, "bytes of names"))
                .map_err(|error| self.fault(at, &error))?;
            let mut content = Content { input: &mut reader, archive: self.archive, offset: self.offset };
            visit(self.place, &entry, &mut content)?;
        }
    }

    /// An error at a position of the unpacked segment.
    fn fault(&self, position: u64, error: &io::Error) -> Error {
        self.archive
            .fault(self.offset, format!("byte {position} of this segment, unpacked: {}", words(error)))
    }
}

/// Skips bytes of a file without reading them.
fn seek(input: &mut BufReader<Section>, bytes: u64) -> io::Result<()> {
    let section = input.get_ref();
    let here = section.position - input.buffer().len() as u64;
    if bytes > section.end.saturating_sub(here) {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    input.seek_relative(i64::try_from(bytes).expect("a file is smaller than 2^63"))
}

/// Skips bytes of a stream.
fn discard(input: &mut BufReader<impl Read>, mut bytes: u64) -> io::Result<()> {
    while bytes > 0 {
        let there = input.fill_buf()?.len();
        if there == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let count = there.min(usize::try_from(bytes).unwrap_or(usize::MAX));
        input.consume(count);
        bytes -= count as u64;
    }
    Ok(())
}

/// Skips zero bytes. Returns their number.
fn zeros(input: &mut impl BufRead) -> io::Result<u64> {
    let mut total = 0;
    loop {
        let buffer = input.fill_buf()?;
        let count = buffer.iter().take_while(|byte| **byte == 0).count();
        let more = count == buffer.len() && count > 0;
        input.consume(count);
        total += count as u64;
        if !more {
            return Ok(total);
        }
    }
}

/// Adds to a counter with a limit.
pub fn add(counter: &AtomicU64, more: u64, most: u64, what: &str) -> io::Result<()> {
    let before = counter.fetch_add(more, Ordering::Relaxed);
    if before.saturating_add(more) <= most {
        return Ok(());
    }
    Err(io::Error::other(format!("more than {most} {what}: this is treated as an attack")))
}
