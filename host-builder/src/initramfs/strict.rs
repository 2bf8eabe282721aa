//! Rejects input that other decompressors accept but the kernel's refuse or read differently. The kernel would stop there
//! and boot with what it has unpacked so far, so such an image must not look complete.
//!
//! Sources: lib/decompress_inflate.c, lib/xz/xz_dec_stream.c, lib/decompress_bunzip2.c and lib/decompress_unlzma.c of Linux; the formats' own
//! documents.

use super::archive::Segment;
use super::codec::decoder;
use super::compression::Compression;
use super::source::{Section, Source, exact};
use std::io::{self, BufReader, Read};

/// Bits of a gzip header's flags that change nothing behind it (FTEXT), and the one that the kernel knows (FNAME).
const GZIP_FLAGS: u8 = 0x01 | 0x08;
/// Types of checks in xz streams that the kernel knows: none and CRC32.
const XZ_CHECKS: u8 = 1;
const XZ_HEADER: u64 = 12;
const XZ_FOOTER: u64 = 12;
/// Filters by their ids in the xz format.
const XZ_X86: u8 = 0x04;
const XZ_LZMA2: u8 = 0x21;
/// Where an lzma header has the size of the content: behind the properties and the dictionary's size.
const LZMA_SIZE: u64 = 5;
/// How a block of bzip2 begins: 48 bits, at any bit.
const BZIP2_BLOCK: u128 = 0x3141_5926_5359;

/// Looks at how a segment begins, before it is unpacked.
pub fn header(source: &dyn Source, offset: u64, compression: Compression) -> io::Result<()> {
    match compression {
        Compression::Gzip => {
            let [_, _, _, flags] = exact(source, offset)?;
            match flags & !GZIP_FLAGS {
                0 => Ok(()),
                more => refused(format!(
                    "a gzip header with flags {more:#04x}, behind which the kernel reads other data than gzip does"
                )),
            }
        }
        Compression::Xz => match exact(source, offset)? {
            [_, _, _, _, _, _, 0, 0..=XZ_CHECKS] => Ok(()),
            [.., check] => refused(format!(
                "an xz stream with a check of type {check}: the kernel knows CRC32 alone (xz --check=crc32)"
            )),
        },
        _ => Ok(()),
    }
}

/// Looks through a segment that was unpacked.
pub fn whole(source: &dyn Source, segment: &Segment) -> io::Result<()> {
    match segment.compression {
        Compression::Xz => xz_blocks(source, segment.offset, segment.size),
        Compression::Bzip2 => bzip2_blocks(source, segment.offset, segment.size),
        Compression::Lzma => lzma_end(source, segment.offset, segment.size),
        _ => Ok(()),
    }
}

/// The filters of each block of an xz stream that was found to be whole: LZMA2, and for x86 programs one before it.
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
                "an xz block with filters that the kernel does not know: LZMA2 and x86 are".to_owned(),
            );
        }
        let unpadded = number(source, &mut at)?;
        number(source, &mut at)?;
        block += unpadded.next_multiple_of(4);
    }
    Ok(())
}

/// A number of variable length: seven bits in each byte, the least first.
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

/// Blocks of the randomised kind, which no program has made for decades and the kernel does not know.
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
            // Block, its checksum of 32 bits, and the bit that says it.
            let randomised = (0..8).any(|shift| {
                (bits >> shift) & 1 == 1 && (bits >> (shift + 33)) & ((1 << 48) - 1) == BZIP2_BLOCK
            });
            if randomised {
                return refused("a randomised block of bzip2, which the kernel does not know".to_owned());
            }
        }
    }
    Ok(())
}

/// A marker of the end behind content whose size the header says: the kernel stops at the size, and takes the marker for what follows. It has
/// 26 bits at least that cannot be compressed. Where there is none, the decoder needs all bytes but perhaps the last one, which is then zero, and the kernel
/// skips it.
fn lzma_end(source: &dyn Source, offset: u64, size: u64) -> io::Result<()> {
    let unpacked = u64::from_le_bytes(exact(source, offset + LZMA_SIZE)?);
    if unpacked == u64::MAX {
        return Ok(());
    }
    let part = BufReader::new(Section { source, position: offset, end: offset + size - 2 });
    let mut part = decoder(Compression::Lzma, part)?;
    let (mut found, mut buffer) = (0, vec![0; 1 << 16]);
    // The part ends in an error.
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
