//! Rejects input that other decompressors accept, but the kernel's refuse or read differently. The
//! kernel would stop there and boot with what it has unpacked so far, so such an image must not
//! look complete.
//!
//! Sources: lib/decompress_inflate.c, lib/xz/xz_dec_stream.c, lib/decompress_bunzip2.c and
//! lib/decompress_unlzma.c of Linux; the documents of the formats.

use super::archive::Segment;
use super::codec::decoder;
use super::compression::Compression;
use super::source::{Section, Source, exact};
use std::io::{self, BufReader, Read};

/// Flags of a gzip header that do not change the following data (FTEXT), and the flag that the
/// kernel supports (FNAME).
const GZIP_FLAGS: u8 = 0x01 | 0x08;
/// Types of checks in xz streams that the kernel supports: none and CRC32.
const XZ_CHECKS: u8 = 1;
const XZ_HEADER: u64 = 12;
const XZ_FOOTER: u64 = 12;
/// Filters by their ids in the xz format.
const XZ_X86: u8 = 0x04;
const XZ_LZMA2: u8 = 0x21;
/// Offset of the content's size in an lzma header, after the properties and the size of the
/// dictionary.
const LZMA_SIZE: u64 = 5;
/// Start of a bzip2 block: 48 bits, at any bit offset.
const BZIP2_BLOCK: u128 = 0x3141_5926_5359;

/// Checks the header of a segment before it is unpacked.
pub fn header(source: &dyn Source, offset: u64, compression: Compression) -> io::Result<()> {
    match compression {
        Compression::Gzip => {
            let [_, _, _, flags] = exact(source, offset)?;
            match flags & !GZIP_FLAGS {
                0 => Ok(()),
                more => refused(format!(
                    "a gzip header with flags {more:#04x}, after which the kernel reads other data than gzip does"
                )),
            }
        }
        Compression::Xz => match exact(source, offset)? {
            [_, _, _, _, _, _, 0, 0..=XZ_CHECKS] => Ok(()),
            [.., check] => refused(format!(
                "an xz stream with a check of type {check}: the kernel supports only CRC32 (xz --check=crc32)"
            )),
        },
        _ => Ok(()),
    }
}

/// Checks a complete segment after it was unpacked.
pub fn whole(source: &dyn Source, segment: &Segment) -> io::Result<()> {
    match segment.compression {
        Compression::Xz => xz_blocks(source, segment.offset, segment.size),
        Compression::Bzip2 => bzip2_blocks(source, segment.offset, segment.size),
        Compression::Lzma => lzma_end(source, segment.offset, segment.size),
        _ => Ok(()),
    }
}

/// Checks the filters of each block of a complete xz stream: LZMA2, optionally with the filter for
/// x86 programs before it.
fn xz_blocks(source: &dyn Source, offset: u64, size: u64) -> io::Result<()> {
    let end = offset + size - XZ_FOOTER;
    let [_, _, _, _, words @ ..] = exact::<8>(source, end)?;
    let mut at = end - (u64::from(u32::from_le_bytes(words)) + 1) * 4 + 1;
    let mut block = offset + XZ_HEADER;
    for _ in 0..number(source, &mut at)? {
        let [_, flags] = exact(source, block)?;
        let mut filters = block + 2;
        for present in [0x40, 0x80] {
            if flags & present != 0 {
                number(source, &mut filters)?;
            }
        }
        let first = exact(source, filters)?;
        let known = matches!((flags & 0x3f, first), (0, [XZ_LZMA2, _, _]) | (1, [XZ_X86, 0, XZ_LZMA2]));
        if !known {
            return refused(
                "an xz block with filters that the kernel does not support: expected LZMA2, or x86 and LZMA2"
                    .to_owned(),
            );
        }
        let unpadded = number(source, &mut at)?;
        number(source, &mut at)?;
        block += unpadded.next_multiple_of(4);
    }
    Ok(())
}

/// Reads a number of variable length: seven bits in each byte, the lowest first.
fn number(source: &dyn Source, at: &mut u64) -> io::Result<u64> {
    let mut value = 0;
    for shift in (0..63).step_by(7) {
        let [byte] = exact(source, *at)?;
        *at += 1;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    refused("a number of more than 63 bits in an xz stream".to_owned())
}

/// Refuses randomised blocks, which no program has made for decades and the kernel does not
/// support.
fn bzip2_blocks(source: &dyn Source, offset: u64, size: u64) -> io::Result<()> {
    let mut buffer = vec![0; 1 << 16];
    let (mut at, mut bits) = (offset, 0_u128);
    while at < offset + size {
        let most = usize::try_from(offset + size - at).unwrap_or(buffer.len()).min(buffer.len());
        let got = source.read_at(&mut buffer[..most], at)?;
        if got == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        at += got as u64;
        for byte in &buffer[..got] {
            bits = bits << 8 | u128::from(*byte);
            // The block's magic number, its checksum of 32 bits, and the bit for randomised blocks.
            let randomised = (0..8).any(|shift| {
                (bits >> shift) & 1 == 1 && (bits >> (shift + 33)) & ((1 << 48) - 1) == BZIP2_BLOCK
            });
            if randomised {
                return refused("a randomised block of bzip2, which the kernel does not support".to_owned());
            }
        }
    }
    Ok(())
}

/// Refuses an end marker after content whose size is in the header: the kernel stops at that size,
/// and takes the marker for the following data. A marker has at least 26 bits that cannot be
/// compressed. Without a marker, the decoder needs all bytes except perhaps the last one, which is
/// then zero and skipped by the kernel.
fn lzma_end(source: &dyn Source, offset: u64, size: u64) -> io::Result<()> {
    let unpacked = u64::from_le_bytes(exact(source, offset + LZMA_SIZE)?);
    if unpacked == u64::MAX {
        return Ok(());
    }
    let part = BufReader::new(Section { source, position: offset, end: offset + size - 2 });
    let mut part = decoder(Compression::Lzma, part)?;
    let (mut found, mut buffer) = (0, vec![0; 1 << 16]);
    // The truncated part ends with an error.
    while let Ok(got @ 1..) = part.read(&mut buffer) {
        found += got as u64;
    }
    if found < unpacked {
        return Ok(());
    }
    refused("an lzma stream with its size in the header and a marker of its end: the kernel stops before the marker".to_owned())
}

fn refused<T>(what: String) -> io::Result<T> {
    Err(io::Error::new(io::ErrorKind::InvalidData, what))
}
