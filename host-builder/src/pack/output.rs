//! The image as it is written: copied, hashed beside the copying, and measured.

use crate::cache::Hasher;
use std::fs::File;
use std::io::{self, Read, Write};
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::JoinHandle;

/// Bytes of one step.
const CHUNK: usize = 1 << 20;
/// Steps that the hashing thread may be behind.
const BEHIND: usize = 8;

/// A file that is being written.
pub(super) struct Output<'a> {
    file: &'a mut File,
    written: u64,
    chunks: SyncSender<Arc<Vec<u8>>>,
    hashing: JoinHandle<String>,
}

impl<'a> Output<'a> {
    pub(super) fn new(file: &'a mut File) -> Self {
        let (chunks, receiver) = sync_channel::<Arc<Vec<u8>>>(BEHIND);
        let hashing = std::thread::spawn(move || {
            let mut hasher = Hasher::default();
            for chunk in receiver {
                hasher.update(&chunk);
            }
            hasher.hex()
        });
        Self { file, written: 0, chunks, hashing }
    }

    /// Bytes so far.
    pub(super) fn written(&self) -> u64 {
        self.written
    }

    /// Zero bytes up to `end`.
    pub(super) fn fill(&mut self, end: u64) -> io::Result<()> {
        let missing = end.saturating_sub(self.written);
        self.put(vec![0; usize::try_from(missing).map_err(io::Error::other)?])
    }

    /// All of `source`; returns its CRC-32.
    pub(super) fn copy(&mut self, source: &mut File) -> io::Result<u32> {
        let mut checksum = flate2::Crc::new();
        loop {
            let mut chunk = Vec::with_capacity(CHUNK);
            if Read::take(&mut *source, CHUNK as u64).read_to_end(&mut chunk)? == 0 {
                return Ok(checksum.sum());
            }
            checksum.update(&chunk);
            self.put(chunk)?;
        }
    }

    /// Size and SHA-256 of all that was written.
    pub(super) fn finish(self) -> (u64, String) {
        drop(self.chunks);
        (self.written, self.hashing.join().expect("hashing does not panic"))
    }

    fn put(&mut self, chunk: Vec<u8>) -> io::Result<()> {
        let chunk = Arc::new(chunk);
        // The thread ends when this end of the channel does.
        let _ = self.chunks.send(Arc::clone(&chunk));
        self.written += chunk.len() as u64;
        self.file.write_all(&chunk)
    }
}
