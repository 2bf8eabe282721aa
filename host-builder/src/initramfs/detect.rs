//! Detects where segments start and how they are compressed, and where they end if this is known
//! without unpacking.

use super::archive::{Archive, words};
use super::compression::Compression;
use super::file_type::of_front;
use super::source::{Source, exact};
use super::{lz4, lzop, strict};
use crate::common::error::Result;
use std::io;

/// Most segments of a file. No tool makes more.
const MAX_SEGMENTS: usize = 65_536;
/// Largest window of a zstd frame (`ZSTD_WINDOWSIZE_MAX` in the kernel's lib/decompress_unzstd.c).
const ZSTD_WINDOW: u64 = 1 << 27;

/// What is known about a segment before it is unpacked.
#[derive(Debug)]
pub struct Located {
    pub offset: u64,
    pub compression: Compression,
    pub size: Option<u64>,
    pub unpacked: Option<u64>,
}

/// Finds one segment after another.
pub struct Locator<'a> {
    archive: &'a Archive,
    /// Where to look for the next one.
    pub position: u64,
    found: usize,
}

impl<'a> Locator<'a> {
    pub fn new(archive: &'a Archive) -> Self {
        Self { archive, position: 0, found: 0 }
    }

    /// The next segment; `None` at the end. [`Self::position`] must have been set to the end of the
    /// previous one.
    pub fn next_segment(&mut self) -> Result<Option<Located>> {
        let (archive, source) = (self.archive, &*self.archive.source);
        let failed = |at: u64| move |error: io::Error| archive.fault(at, words(&error));
        self.position = skip_zeros(source, self.position).map_err(failed(self.position))?;
        let offset = self.position;
        if offset >= source.size() {
            return Ok(None);
        }
        self.found += 1;
        if self.found > MAX_SEGMENTS {
            return Err(archive.fault(offset, format!("more than {MAX_SEGMENTS} segments")));
        }
        let mut head = [0; 6];
        let got = source.read_at(&mut head, offset).map_err(failed(offset))?;
        let Some(compression) = Compression::of(&head[..got]) else {
            // If the file does not start with a segment, it may have another type.
            let front = if self.found == 1 { front(source) } else { Vec::new() };
            return Err(archive.fault(offset, unknown(&head[..got], of_front(&front))));
        };
        strict::header(source, offset, compression).map_err(failed(offset))?;
        let (size, unpacked) = match compression {
            Compression::None if !offset.is_multiple_of(4) => {
                return Err(archive.fault(offset, "an archive must begin at a multiple of four bytes"));
            }
            Compression::Zstd => {
                let (size, unpacked) = zstd_frame(source, offset).map_err(failed(offset))?;
                (Some(size), unpacked)
            }
            Compression::Lz4 => (Some(lz4_frames(source, offset).map_err(failed(offset))?), None),
            Compression::Lzop => (Some(lzop::size(source, offset).map_err(failed(offset))?), None),
            _ => (None, None),
        };
        Ok(Some(Located { offset, compression, size, unpacked }))
    }
}

/// Descriptions of a whole file that are not specific enough for an error at an offset.
const KNOWN: [&str; 4] = [
    "an empty file",
    "data of an unknown kind",
    "an initramfs (cpio)",
    "a compressed file, such as an initramfs",
];

/// The first bytes of a file, for detecting its type; empty if they cannot be read.
fn front(source: &dyn Source) -> Vec<u8> {
    let mut front = vec![0; 4096];
    let got = source.read_at(&mut front, 0).unwrap_or_default();
    front.truncate(got);
    front
}

/// The error text for something that is not a segment.
fn unknown(head: &[u8], file: &str) -> String {
    let hex: Vec<_> = head.iter().map(|byte| format!("{byte:02x}")).collect();
    let what = match head {
        [0x04, 0x22, 0x4d, 0x18, ..] => {
            ", which is lz4's newer frame: the kernel reads only the legacy one (lz4 -l)"
        }
        [0x27, 0x05, 0x19, 0x56, ..] => {
            ", which is a uImage of U-Boot: the initramfs starts after its first 64 bytes (tail -c +65)"
        }
        [b'0', b'7', b'0', b'7', b'0', b'7', ..] => {
            ", which is the old cpio format: the kernel reads newc (cpio -H newc)"
        }
        _ if KNOWN.contains(&file) => "",
        _ => return format!("expected an initramfs, found {file}"),
    };
    format!("expected a cpio archive, a compressed one, or the end; found {}{what}", hex.join(" "))
}

fn skip_zeros(source: &dyn Source, mut position: u64) -> io::Result<u64> {
    let mut buffer = [0; 4096];
    loop {
        let got = source.read_at(&mut buffer, position)?;
        match buffer[..got].iter().position(|byte| *byte != 0) {
            Some(zeros) => return Ok(position + zeros as u64),
            None if got == 0 => return Ok(position),
            None => position += got as u64,
        }
    }
}

/// Size of a zstd frame, and of its content if the header states it (RFC 8878, sections 3.1.1.1 and
/// 3.1.1.2).
fn zstd_frame(source: &dyn Source, offset: u64) -> io::Result<(u64, Option<u64>)> {
    let [.., descriptor] = exact::<5>(source, offset)?;
    let single_segment = descriptor & 0x20 != 0;
    if !single_segment {
        let [window] = exact(source, offset + 5)?;
        // Bits 3 to 7 are the logarithm, from 10. Each unit of the other three bits adds an eighth.
        let base = 1_u64 << (10 + (window >> 3));
        check_window(base + base / 8 * u64::from(window & 7))?;
    }
    let window = u64::from(!single_segment);
    let dictionary = [0, 1, 2, 4][usize::from(descriptor & 3)];
    let content = match (descriptor >> 6, single_segment) {
        (0, single) => u64::from(single),
        (flag, _) => 1 << flag,
    };
    let mut at = offset + 5 + window + dictionary;
    let unpacked = match content {
        0 => None,
        1 => Some(u64::from(exact::<1>(source, at)?[0])),
        2 => Some(u64::from(u16::from_le_bytes(exact(source, at)?)) + 256),
        4 => Some(u64::from(u32::from_le_bytes(exact(source, at)?))),
        _ => Some(u64::from_le_bytes(exact(source, at)?)),
    };
    if let Some(unpacked) = unpacked.filter(|_| single_segment) {
        check_window(unpacked)?;
    }
    at += content;
    loop {
        let [a, b, c] = exact(source, at)?;
        let header = u32::from_le_bytes([a, b, c, 0]);
        at += 3;
        at += match header >> 1 & 3 {
            1 => 1,
            3 => return Err(io::Error::other("a zstd block of a reserved type")),
            _ => u64::from(header >> 3),
        };
        if header & 1 == 1 {
            break;
        }
    }
    at += if descriptor & 4 == 0 { 0 } else { 4 };
    if at > source.size() {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok((at - offset, unpacked))
}

/// Checks the kernel's limit.
fn check_window(bytes: u64) -> io::Result<()> {
    if bytes <= ZSTD_WINDOW {
        return Ok(());
    }
    let what =
        format!("a zstd frame with a window of {bytes} bytes: the kernel accepts {ZSTD_WINDOW} at most");
    Err(io::Error::new(io::ErrorKind::InvalidData, what))
}

/// Size of consecutive legacy frames of lz4, which the kernel reads as one stream. A length of
/// zero, or fewer bytes than a length has, ends the stream. The kernel takes anything else for a
/// length.
fn lz4_frames(source: &dyn Source, offset: u64) -> io::Result<u64> {
    let mut at = offset + 4;
    while at + 4 <= source.size() {
        let word = u32::from_le_bytes(exact(source, at)?);
        if word == lz4::MAGIC {
            at += 4;
            continue;
        }
        if word == 0 {
            break;
        }
        if word > lz4::MAX_BLOCK {
            let what = "data follows an lz4 stream immediately: the kernel takes it for a block of the stream, unless four zero bytes come first";
            return Err(io::Error::new(io::ErrorKind::InvalidData, what));
        }
        at += 4 + u64::from(word);
        if at > source.size() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(at - offset)
}
