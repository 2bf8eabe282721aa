//! Unpacks one file of any format below a root.

use super::error::{damaged, refused};
use super::format::{self, Format};
use super::stream::inflate;
use super::writer::{self, Unpacked, Writer};
use crate::common::error::{Doing, Error, Result};
use crate::common::space;
use crate::pins::artifact::MAX_UNPACKED;
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

/// Most entries of one archive.
const MAX_ENTRIES: usize = 500_000;
/// Most bytes of a stream with skipped entries: 2 TiB of zeros compress well.
pub const MAX_STREAM: u64 = 32 << 30;

/// Where to unpack, and how.
pub struct Unpacker<'a> {
    /// Where files go.
    pub writer: Writer<'a>,
    only: &'a [String],
    entries: usize,
}

impl<'a> Unpacker<'a> {
    /// Unpacks below `root`, which must exist, and uses at most half of the free space there.
    pub fn new(root: &'a Path) -> Self {
        // If the free space is unknown, writing fails when the space runs out.
        let room = space::half(root).unwrap_or(u64::MAX);
        Self { writer: Writer::new(root, MAX_UNPACKED, room), only: &[], entries: 0 }
    }

    /// Limits the number of unpacked bytes.
    #[must_use]
    pub fn bound(mut self, bytes: u64) -> Self {
        self.writer.limit = bytes.min(MAX_UNPACKED);
        self
    }

    /// Unpacks only entries at or below one of these paths, as the archive spells them. An empty
    /// list means everything.
    #[must_use]
    pub fn only(mut self, paths: &'a [String]) -> Self {
        self.only = paths;
        self
    }

    /// Unpacks a file according to its first bytes, regardless of its name. A file that is not an
    /// archive becomes a single file named `name`.
    pub fn file(&mut self, path: &Path, name: &str) -> Result<()> {
        match format::of(path)? {
            Format::Deb => self.deb(path),
            Format::Rpm => self.rpm(path),
            Format::Zip => self.zip(path),
            Format::Runfile => self.runfile(path),
            Format::Tar => self.tar(open(path)?, path),
            Format::Compressed => self.tar(inflate(open(path)?, path)?, path),
            Format::Plain => self.plain(path, name),
        }
    }

    /// The unpacked files, sorted by path.
    pub fn finish(self) -> Vec<Unpacked> {
        self.writer.finish()
    }

    fn plain(&mut self, path: &Path, name: &str) -> Result<()> {
        let mut input = open(path)?;
        self.writer.file(Path::new(name), &mut input, 0o644, None, path)
    }

    /// The destination of an entry; `None` if it is not wanted. Every entry of every format passes
    /// through this function.
    pub fn place(&mut self, raw: &Path, origin: &Path) -> Result<Option<PathBuf>> {
        self.entries += 1;
        if self.entries > MAX_ENTRIES {
            return Err(Error::new(format!("{}: more than {MAX_ENTRIES} entries", origin.display())));
        }
        let Some(relative) = writer::inside(raw) else {
            return Err(refused(origin, raw, "its path leaves the root"));
        };
        let plain = raw.strip_prefix(".").unwrap_or(raw);
        let wanted = self.only.is_empty() || self.only.iter().any(|path| plain.starts_with(path));
        Ok((wanted && !relative.as_os_str().is_empty()).then_some(relative))
    }
}

/// Opens an archive.
pub fn open(path: &Path) -> Result<BufReader<File>> {
    Ok(BufReader::with_capacity(128 << 10, File::open(path).doing("opening", path)?))
}

/// Reads exactly `bytes` bytes from the start of a stream.
pub fn take_exactly(input: &mut impl Read, bytes: usize, origin: &Path) -> Result<Vec<u8>> {
    let mut buffer = vec![0; bytes];
    input.read_exact(&mut buffer).map_err(|error| damaged(origin, error))?;
    Ok(buffer)
}
