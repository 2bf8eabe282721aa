//! One segment of an image: the files of one origin as a complete archive, compressed, and cached
//! by its content.

use super::compression::Compression;
use crate::artifacts::cache::Cache;
use crate::artifacts::tree::{read_json, write_json};
use crate::build::plan::{Plan, altered};
use crate::common::digest::{HashingReader, sha256};
use crate::common::error::{Doing, Error, Result};
use crate::initramfs::cpio;
use crate::initramfs::cpio::Writer;
use image::layout;
use image::manifest::{File as Entry, Kind, Payload};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fmt::Display;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

/// Changed with every change of the packing, so that old segments are not reused.
const RECIPE: &str = "2";
/// The cache directory for segments.
pub(super) const ROOM: &str = "segments";
/// Segments start at a multiple of this many bytes.
const ALIGNMENT: u64 = 4;
const CONTENT: &str = "segment";
const ABOUT: &str = "about.json";

/// Origin of files. Files of one origin change together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Origin {
    /// The EROFS image of the driver's files, which is already compressed.
    Image,
    /// Libraries, programs and data of the driver.
    Driver,
    /// GSP firmware.
    Firmware,
    /// Kernel modules.
    Modules,
    /// guest-init, the manifest and the guest's mount points.
    Init,
}

/// A segment to make.
pub(super) struct Segment<'a> {
    entries: Vec<&'a Entry>,
    manifest: Option<Vec<u8>>,
    compression: Compression,
}

/// A segment in the cache.
pub(super) struct Cached {
    /// Where it is.
    pub(super) path: PathBuf,
    /// Digest of what its content is made from.
    pub(super) key: String,
    /// Its size.
    pub(super) bytes: u64,
    /// CRC-32 of its bytes.
    pub(super) checksum: u32,
    compression: Compression,
}

impl Cached {
    /// Offset of this segment if the segment before it ends at `end`. For the kernel, four zero
    /// bytes end an LZ4 stream, so LZ4 segments follow each other without padding.
    pub(super) fn start(&self, end: u64) -> u64 {
        if self.compression == Compression::Lz4 { end } else { end.next_multiple_of(ALIGNMENT) }
    }

    /// Checks that the size is the one that was recorded.
    pub(super) fn check_size(&self, found: u64) -> Result<()> {
        if found == self.bytes { Ok(()) } else { Err(self.altered("bytes", self.bytes, found)) }
    }

    /// Removes a changed cache entry (after a power failure, or edited), and returns the error.
    fn altered(&self, what: &str, expected: impl Display, found: impl Display) -> Error {
        if let Some(entry) = self.path.parent() {
            let _ = std::fs::remove_dir_all(entry);
        }
        Error::new(format!("{}: expected {what} {expected}, found {found}", self.path.display()))
            .hint("the cached segment was damaged and has been removed: run the command again to rebuild it")
    }

    /// Checks that the CRC-32 is the one that was recorded.
    pub(super) fn check(&self, found: u32) -> Result<()> {
        if found == self.checksum { Ok(()) } else { Err(self.altered("checksum", self.checksum, found)) }
    }
}

#[derive(Serialize, Deserialize)]
struct About {
    bytes: u64,
    checksum: u32,
}

/// The segments of a plan, in order. Uncompressed ones come first, because the kernel's LZ4 reader
/// consumes everything that follows.
pub(super) fn segments(plan: &Plan, compression: Compression) -> Vec<Segment<'_>> {
    let entries: Vec<&Entry> = plan.manifest.archived().collect();
    let image = match &plan.manifest.payload {
        Payload::Image { path, .. } => path.as_str(),
        Payload::Files | Payload::Disk { .. } => "",
    };
    let origins = [Origin::Image, Origin::Driver, Origin::Firmware, Origin::Modules, Origin::Init];
    let made = origins.into_iter().map(|origin| {
        let of_it = |entry: &&&Entry| entry.kind != Kind::Directory && origin_of(entry, image) == origin;
        let content: Vec<&Entry> = entries.iter().filter(of_it).copied().collect();
        let compression = if origin == Origin::Image { Compression::None } else { compression };
        let manifest = (origin == Origin::Init).then(|| plan.manifest.to_json());
        Segment { entries: with_parents(&entries, &content, origin), manifest, compression }
    });
    made.filter(|segment| !segment.entries.is_empty()).collect()
}

fn origin_of(entry: &Entry, image: &str) -> Origin {
    let below = |directory: &str| Path::new(&entry.path).starts_with(directory);
    if entry.path == image {
        Origin::Image
    } else if below(layout::MODULES_DIR) {
        Origin::Modules
    } else if below(layout::FIRMWARE_DIR) {
        Origin::Firmware
    } else if entry.payload {
        Origin::Driver
    } else {
        Origin::Init
    }
}

/// Returns the content together with its parent directories, because the kernel silently drops an
/// entry without a parent. Directories without content belong to the init segment.
fn with_parents<'a>(all: &[&'a Entry], content: &[&'a Entry], origin: Origin) -> Vec<&'a Entry> {
    if content.is_empty() {
        return Vec::new();
    }
    let ancestors =
        |entry: &&Entry| Path::new(&entry.path).ancestors().map(Path::to_owned).collect::<Vec<_>>();
    let needed: BTreeSet<PathBuf> = content.iter().flat_map(ancestors).collect();
    let in_use: BTreeSet<PathBuf> =
        all.iter().filter(|entry| entry.kind != Kind::Directory).flat_map(ancestors).collect();
    let takes = |entry: &&&'a Entry| {
        let path = Path::new(&entry.path);
        needed.contains(path)
            || (origin == Origin::Init && entry.kind == Kind::Directory)
                && (!in_use.contains(path) || Path::new(layout::MANIFEST).starts_with(path))
    };
    all.iter().filter(takes).copied().collect()
}

impl Segment<'_> {
    /// Size of its content in bytes.
    pub(super) fn bytes(&self) -> u64 {
        self.entries.iter().map(|entry| entry.size()).sum()
    }

    /// Size of the segment as an uncompressed archive.
    fn archive_bytes(&self) -> u64 {
        let manifest =
            self.manifest.as_ref().map(|bytes| cpio::entry_bytes(layout::MANIFEST, bytes.len() as u64));
        let entries = self.entries.iter().map(|entry| {
            let target = if let Kind::Link { target } = &entry.kind { target.len() as u64 } else { 0 };
            cpio::entry_bytes(&entry.path, entry.size() + target)
        });
        cpio::archive_bytes(entries.chain(manifest).sum())
    }

    /// Returns the segment from the cache, or makes it.
    pub(super) fn make(&self, plan: &Plan, cache: &Cache, bar: &indicatif::ProgressBar) -> Result<Cached> {
        let key = self.key();
        let dir = cache.derived_checked(ROOM, &key, |out| {
            let path = out.join(CONTENT);
            let mut summed = Summed {
                out: BufWriter::with_capacity(1 << 20, File::create(&path).doing("creating", &path)?),
                checksum: flate2::Crc::new(),
                bytes: 0,
            };
            self.compression
                .through(&mut summed, self.archive_bytes(), |out| self.archive(plan, out, bar))?;
            summed.flush().doing("writing", &path)?;
            write_json(&out.join(ABOUT), &About { bytes: summed.bytes, checksum: summed.checksum.sum() })
        })?;
        let About { bytes, checksum } = read_json(&dir.join(ABOUT))?;
        Ok(Cached { path: dir.join(CONTENT), key, bytes, checksum, compression: self.compression })
    }

    /// Digest of everything that its bytes depend on.
    fn key(&self) -> String {
        let mut text = format!("{RECIPE} {}\n", self.compression);
        for entry in &self.entries {
            text.push_str(&format!("{} {:o} {:?}\n", entry.path, entry.mode, entry.kind));
        }
        if let Some(manifest) = &self.manifest {
            text.push_str(&sha256(manifest));
        }
        sha256(text.as_bytes())
    }

    fn archive(&self, plan: &Plan, out: &mut dyn Write, bar: &indicatif::ProgressBar) -> Result<()> {
        let mut writer = Writer::new(out);
        let mut manifest = self.manifest.as_deref();
        for entry in &self.entries {
            // The manifest is written at its sorted position, after its directory.
            if entry.path.as_str() > layout::MANIFEST
                && let Some(bytes) = manifest.take()
            {
                write_manifest(&mut writer, bytes)?;
            }
            write(&mut writer, plan, entry, bar)?;
        }
        if let Some(bytes) = manifest {
            write_manifest(&mut writer, bytes)?;
        }
        writer.finish().map(drop).doing("packing", Path::new("the archive's end"))
    }
}

fn write<W: Write>(
    writer: &mut Writer<W>,
    plan: &Plan,
    entry: &Entry,
    bar: &indicatif::ProgressBar,
) -> Result<()> {
    let at = Path::new(&entry.path);
    match &entry.kind {
        Kind::Directory => writer.directory(&entry.path, entry.mode).doing("packing", at),
        Kind::Link { target } => writer.link(&entry.path, target).doing("packing", at),
        Kind::File { size, sha256 } => {
            let mut source = plan.open(&entry.path)?;
            let mut reader = HashingReader::new(bar.wrap_read(&mut source));
            writer.file(&entry.path, entry.mode, *size, &mut reader).doing("packing", at)?;
            let found = reader.hasher.hex();
            if found == *sha256 { Ok(()) } else { Err(altered(&entry.path, sha256, &found)) }
        }
    }
}

fn write_manifest<W: Write>(writer: &mut Writer<W>, manifest: &[u8]) -> Result<()> {
    let path = Path::new(layout::MANIFEST);
    writer.file(layout::MANIFEST, 0o644, manifest.len() as u64, &mut &manifest[..]).doing("packing", path)
}

/// A writer that computes the checksum and the size of what it writes.
struct Summed<W> {
    out: W,
    checksum: flate2::Crc,
    bytes: u64,
}

impl<W: Write> Write for Summed<W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let written = self.out.write(bytes)?;
        self.checksum.update(&bytes[..written]);
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.out.flush()
    }
}
