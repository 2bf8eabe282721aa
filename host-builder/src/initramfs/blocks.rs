//! Decodes formats that consist of blocks with their length in front, one block at a time.

use std::io::{self, Read};

/// A format that consists of blocks.
pub trait Format {
    /// Reads the next block and unpacks it into `block`. Returns `false` at the end.
    fn next_block(&mut self, input: &mut dyn Read, block: &mut Vec<u8>) -> io::Result<bool>;
}

/// Unpacks consecutive blocks. `input` contains exactly these blocks.
pub struct Decoder<R, F> {
    input: R,
    format: F,
    block: Vec<u8>,
    /// Number of bytes of the block that were read.
    read: usize,
}

impl<R: Read, F: Format> Decoder<R, F> {
    pub fn new(input: R, format: F) -> Self {
        Self { input, format, block: Vec::new(), read: 0 }
    }
}

impl<R: Read, F: Format> Read for Decoder<R, F> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.read == self.block.len() {
            self.block.clear();
            self.read = 0;
            if !self.format.next_block(&mut self.input, &mut self.block)? {
                return Ok(0);
            }
        }
        let count = buffer.len().min(self.block.len() - self.read);
        buffer[..count].copy_from_slice(&self.block[self.read..self.read + count]);
        self.read += count;
        Ok(count)
    }
}

/// Reads the next `N` bytes. Returns `None` at the end of the input.
pub fn next<const N: usize>(input: &mut dyn Read) -> io::Result<Option<[u8; N]>> {
    let mut bytes = Vec::with_capacity(N);
    input.take(N as u64).read_to_end(&mut bytes)?;
    match <[u8; N]>::try_from(bytes) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(rest) if rest.is_empty() => Ok(None),
        Err(_) => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

pub fn malformed(what: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}
