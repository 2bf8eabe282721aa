//! SHA-256 of bytes, files, and data that passes through a reader or writer.

use super::error::{Doing, Result};
use sha2::digest::common::hazmat::SerializableState;
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;

/// Returns the SHA-256 of a file in lower-case hex.
pub fn sha256_file(path: &Path) -> Result<String> {
    let mut file = File::open(path).doing("opening", path)?;
    let mut hasher = Hasher::default();
    io::copy(&mut file, &mut hasher).doing("reading", path)?;
    Ok(hasher.hex())
}

/// Returns the SHA-256 of bytes in lower-case hex.
pub fn sha256(bytes: &[u8]) -> String {
    let mut hasher = Hasher::default();
    hasher.update(bytes);
    hasher.hex()
}

/// SHA-256 as a writer.
#[derive(Default, Clone)]
pub struct Hasher(Sha256);

impl Hasher {
    /// Adds bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// Returns the internal state, from which [`Hasher::resume`] continues. It is valid only for
    /// the same build.
    pub fn state(&self) -> Vec<u8> {
        self.0.serialize().to_vec()
    }

    /// Continues from a [`Hasher::state`]. Returns `None` if the bytes are not a valid state.
    pub fn resume(state: &[u8]) -> Option<Self> {
        let state = state.try_into().ok()?;
        Sha256::deserialize(&state).ok().map(Self)
    }

    /// The digest.
    pub fn bytes(self) -> [u8; 32] {
        self.0.finalize().into()
    }

    /// The digest, lower-case hex.
    pub fn hex(self) -> String {
        image::text::to_hex(&self.bytes())
    }
}

impl Write for Hasher {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A reader that hashes the data that it returns.
pub struct HashingReader<R> {
    inner: R,
    /// The digest so far.
    pub hasher: Hasher,
}

impl<R: Read> HashingReader<R> {
    /// Reads from `inner`.
    pub fn new(inner: R) -> Self {
        Self { inner, hasher: Hasher::default() }
    }
}

impl<R: Read> Read for HashingReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let got = self.inner.read(buffer)?;
        self.hasher.write_all(&buffer[..got])?;
        Ok(got)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_goes_on_from_a_state_and_from_nothing_else() {
        let mut hasher = Hasher::default();
        hasher.update(&[7; 1000]);
        let mut resumed = Hasher::resume(&hasher.state()).unwrap();
        resumed.update(b"more");
        assert_eq!(resumed.hex(), sha256(&[&[7; 1000][..], b"more"].concat()));
        assert!(Hasher::resume(b"").is_none() && Hasher::resume(&[0; 9]).is_none());
    }
}
