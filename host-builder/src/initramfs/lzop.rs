//! The files of lzop: a header, then blocks of LZO1X, each with its lengths and a checksum before
//! it.
//!
//! Sources: lib/decompress_unlzo.c and Documentation/staging/lzo.rst of Linux, and lzop's conf.h
//! for the flags. Files that the kernel would read differently from lzop are refused: it skips four
//! bytes of checksum before each block, regardless of the header's flags. The decoder of blocks is
//! our own, because available crates either panic on hostile input or have an incompatible licence.

use super::blocks::{Format, malformed, next};
use super::source::{Source, exact};
use std::io::{self, Read};

/// First bytes of a file.
const MAGIC: [u8; 9] = [0x89, b'L', b'Z', b'O', 0, 0x0d, 0x0a, 0x1a, 0x0a];
/// Since this version, a header has the required version, a level, and the upper half of a time.
const NEWER: u16 = 0x0940;
/// Flags for a checksum before each block: Adler-32 or CRC-32 of its unpacked data.
const CHECKSUMS: [u32; 2] = [0x1, 0x100];
/// Flags that do not change the following data: the origin of the data, and kinds of names,
/// systems, character sets and header checksums.
const HARMLESS: u32 = 0xfff0_0000 | 0x1000 | 0x2000 | 0x4 | 0x8 | 0x10 | 0x20;
/// Maximum unpacked size of a block.
const BLOCK: u32 = 256 << 10;

/// Size of a file: its header, and all blocks up to the length of zero at the end.
pub fn size(source: &dyn Source, offset: u64) -> io::Result<u64> {
    let mut at = offset + header(source, offset)?;
    loop {
        let unpacked = u32::from_be_bytes(exact(source, at)?);
        if unpacked == 0 {
            return Ok(at + 4 - offset);
        }
        at += 12 + u64::from(packed(unpacked, u32::from_be_bytes(exact(source, at + 4)?))?);
    }
}

/// Size of the header.
fn header(source: &dyn Source, offset: u64) -> io::Result<u64> {
    if exact(source, offset)? != MAGIC {
        return Err(malformed("an incomplete lzop magic number"));
    }
    let mut at = offset + MAGIC.len() as u64;
    let newer = u16::from_be_bytes(exact(source, at)?) >= NEWER;
    // Versions of the program and of its library, and the method.
    at += 5 + if newer { 3 } else { 0 };
    let flags = u32::from_be_bytes(exact(source, at)?);
    let checksums = flags & !HARMLESS;
    if !CHECKSUMS.contains(&checksums) {
        return Err(malformed(format!(
            "an lzop header with flags {flags:#x}: the kernel expects one checksum for each block, of what it unpacks to, and no filter (lzop without options)"
        )));
    }
    // Flags, mode, time.
    at += 12 + if newer { 4 } else { 0 };
    let [name] = exact(source, at)?;
    // The name, and the header's checksum.
    Ok(at + 1 + u64::from(name) + 4 - offset)
}

/// Checks the length of a compressed block.
fn packed(unpacked: u32, packed: u32) -> io::Result<u32> {
    if unpacked > BLOCK || packed == 0 || packed > unpacked {
        return Err(malformed(format!(
            "an lzop block of {packed} bytes for {unpacked}: the kernel accepts from 1 byte up to the unpacked size, {BLOCK} at most"
        )));
    }
    Ok(packed)
}

/// The blocks of one file.
#[derive(Default)]
pub struct Lzop {
    begun: bool,
    packed: Vec<u8>,
}

impl Format for Lzop {
    fn next_block(&mut self, input: &mut dyn Read, block: &mut Vec<u8>) -> io::Result<bool> {
        if !std::mem::replace(&mut self.begun, true) {
            skip_header(input)?;
        }
        let Some(word) = next(input)? else { return Ok(false) };
        let unpacked = u32::from_be_bytes(word);
        if unpacked == 0 {
            return Ok(false);
        }
        let [a, b, c, d, _, _, _, _] = next(input)?.ok_or(io::ErrorKind::UnexpectedEof)?;
        self.packed.resize(packed(unpacked, u32::from_be_bytes([a, b, c, d]))? as usize, 0);
        input.read_exact(&mut self.packed)?;
        if self.packed.len() == unpacked as usize {
            block.extend_from_slice(&self.packed);
        } else {
            unpack(&self.packed, block, unpacked as usize)?;
        }
        Ok(true)
    }
}

/// The header was checked before ([`header`]).
fn skip_header(input: &mut dyn Read) -> io::Result<()> {
    let mut start = [0; MAGIC.len() + 2];
    input.read_exact(&mut start)?;
    let newer = u16::from_be_bytes([start[9], start[10]]) >= NEWER;
    let mut rest = vec![0; if newer { 3 + 3 + 12 + 4 } else { 3 + 12 }];
    input.read_exact(&mut rest)?;
    let [name] = next(input)?.ok_or(io::ErrorKind::UnexpectedEof)?;
    let mut rest = vec![0; usize::from(name) + 4];
    input.read_exact(&mut rest)
}

/// Unpacks one block of LZO1X to exactly `size` bytes.
fn unpack(packed: &[u8], out: &mut Vec<u8>, size: usize) -> io::Result<()> {
    let mut block = Lzo { input: packed, out, size };
    // Number of literals that the last instruction copied: 0 to 3, or 4 for a longer run.
    let mut state = match packed.first() {
        Some(first @ 18..) => {
            let length = usize::from(first - 17);
            block.byte()?;
            block.literals(length)?;
            length.min(4)
        }
        _ => 0,
    };
    loop {
        let code = block.byte()?;
        let low = usize::from(code);
        let (length, distance, literals) = match code {
            0..=15 if state == 0 => {
                let length = block.length(low, 15)? + 3;
                block.literals(length)?;
                state = 4;
                continue;
            }
            0..=15 => {
                let far = usize::from(block.byte()?) << 2 | low >> 2;
                if state == 4 { (3, far + 2049, low & 3) } else { (2, far + 1, low & 3) }
            }
            16..=31 => {
                let length = block.length(low & 7, 7)? + 2;
                let word = block.word()?;
                let distance = (low & 8) << 11 | word >> 2;
                if distance == 0 {
                    return block.end(length);
                }
                (length, distance + 16384, word & 3)
            }
            32..=63 => {
                let length = block.length(low & 31, 31)? + 2;
                let word = block.word()?;
                (length, (word >> 2) + 1, word & 3)
            }
            64..=127 => (3 + (low >> 5 & 1), (usize::from(block.byte()?) << 3 | low >> 2 & 7) + 1, low & 3),
            128.. => (5 + (low >> 5 & 3), (usize::from(block.byte()?) << 3 | low >> 2 & 7) + 1, low & 3),
        };
        block.copy(length, distance)?;
        block.literals(literals)?;
        state = literals;
    }
}

/// A block that is being unpacked.
struct Lzo<'a> {
    input: &'a [u8],
    out: &'a mut Vec<u8>,
    size: usize,
}

impl Lzo<'_> {
    fn byte(&mut self) -> io::Result<u8> {
        let (first, rest) = self.input.split_first().ok_or_else(damaged)?;
        self.input = rest;
        Ok(*first)
    }

    fn word(&mut self) -> io::Result<usize> {
        Ok(usize::from(u16::from_le_bytes([self.byte()?, self.byte()?])))
    }

    /// A length: the bits of the instruction, or, if they are 0, `most` plus the following bytes.
    fn length(&mut self, of_code: usize, most: usize) -> io::Result<usize> {
        if of_code != 0 {
            return Ok(of_code);
        }
        let mut length = most;
        loop {
            match self.byte()? {
                0 => length += 255,
                last => return Ok(length + usize::from(last)),
            }
        }
    }

    fn literals(&mut self, length: usize) -> io::Result<()> {
        let (literals, rest) = self.input.split_at_checked(length).ok_or_else(damaged)?;
        self.room(length)?;
        self.out.extend_from_slice(literals);
        self.input = rest;
        Ok(())
    }

    fn copy(&mut self, length: usize, distance: usize) -> io::Result<()> {
        let from = self.out.len().checked_sub(distance).ok_or_else(damaged)?;
        self.room(length)?;
        // Source and destination may overlap; then bytes that were just copied are copied again.
        for at in from..from + length {
            self.out.push(self.out[at]);
        }
        Ok(())
    }

    fn room(&self, length: usize) -> io::Result<()> {
        if self.out.len() + length > self.size { Err(damaged()) } else { Ok(()) }
    }

    /// Checks the end: its length is 3, the input is consumed, and the output has the stated size.
    fn end(&self, length: usize) -> io::Result<()> {
        if length == 3 && self.input.is_empty() && self.out.len() == self.size {
            Ok(())
        } else {
            Err(damaged())
        }
    }
}

fn damaged() -> io::Error {
    malformed("a damaged block of LZO")
}
