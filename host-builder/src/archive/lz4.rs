//! The legacy frame of lz4: a magic number, then blocks, each with its compressed length before it.
//!
//! Source: "Legacy frame" in lz4's doc/lz4_Frame_format.md, and lib/decompress_unlz4.c in the kernel.

use std::io::{self, Read};

/// How a frame begins, as a number.
pub const MAGIC: u32 = 0x184c_2102;
/// Bytes that one block unpacks to at most.
const BLOCK: u32 = 8 << 20;
/// Bytes of a compressed block at most: what cannot be compressed grows by 1/255.
pub const MAX_BLOCK: u32 = BLOCK + BLOCK / 255 + 16;

/// Unpacks frames that follow each other, of which `input` holds exactly all.
pub struct Decoder<R> {
    input: R,
    packed: Vec<u8>,
    block: Vec<u8>,
    /// What of the block is there, and what of it was read.
    filled: usize,
    read: usize,
}

impl<R: Read> Decoder<R> {
    pub fn new(input: R) -> Self {
        Self { input, packed: Vec::new(), block: Vec::new(), filled: 0, read: 0 }
    }

    /// The next block; `false` at the end.
    fn next_block(&mut self) -> io::Result<bool> {
        loop {
            let Some(word) = self.word()? else { return Ok(false) };
            match word {
                MAGIC => {}
                1..=MAX_BLOCK => {
                    self.packed.resize(word as usize, 0);
                    self.input.read_exact(&mut self.packed)?;
                    self.block.resize(BLOCK as usize, 0);
                    self.filled = lz4_flex::block::decompress_into(&self.packed, &mut self.block)
                        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
                    self.read = 0;
                    return Ok(true);
                }
                _ => {
                    return Err(io::Error::new(
                        io::ErrorKind::InvalidData,
                        "an lz4 block of no possible length",
                    ));
                }
            }
        }
    }

    fn word(&mut self) -> io::Result<Option<u32>> {
        let mut word = Vec::with_capacity(4);
        self.input.by_ref().take(4).read_to_end(&mut word)?;
        match <[u8; 4]>::try_from(word) {
            Ok(word) => Ok(Some(u32::from_le_bytes(word))),
            Err(rest) if rest.is_empty() => Ok(None),
            Err(_) => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
}

impl<R: Read> Read for Decoder<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.read == self.filled {
            if !self.next_block()? {
                return Ok(0);
            }
        }
        let count = buffer.len().min(self.filled - self.read);
        buffer[..count].copy_from_slice(&self.block[self.read..self.read + count]);
        self.read += count;
        Ok(count)
    }
}
