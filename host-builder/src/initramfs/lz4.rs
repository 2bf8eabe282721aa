//! The legacy frame of lz4: a magic number, then blocks, each with its compressed length before it.
//!
//! Source: "Legacy frame" in lz4's doc/lz4_Frame_format.md, and lib/decompress_unlz4.c in the
//! kernel.

use super::blocks::{Format, malformed, next};
use std::io::{self, Read};

/// First bytes of a frame, as a number.
pub const MAGIC: u32 = 0x184c_2102;
/// Maximum unpacked size of a block.
const BLOCK: u32 = 8 << 20;
/// Maximum size of a compressed block: data that cannot be compressed grows by 1/255.
pub const MAX_BLOCK: u32 = BLOCK + BLOCK / 255 + 16;

/// Consecutive frames.
#[derive(Default)]
pub struct Lz4 {
    packed: Vec<u8>,
}

impl Format for Lz4 {
    fn next_block(&mut self, input: &mut dyn Read, block: &mut Vec<u8>) -> io::Result<bool> {
        loop {
            let Some(word) = next(input)? else { return Ok(false) };
            match u32::from_le_bytes(word) {
                MAGIC => {}
                length @ 1..=MAX_BLOCK => {
                    self.packed.resize(length as usize, 0);
                    input.read_exact(&mut self.packed)?;
                    block.resize(BLOCK as usize, 0);
                    let filled = lz4_flex::block::decompress_into(&self.packed, block).map_err(malformed)?;
                    block.truncate(filled);
                    return Ok(true);
                }
                _ => return Err(malformed("an lz4 block of an impossible length")),
            }
        }
    }
}
