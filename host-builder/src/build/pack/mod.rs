//! Packs a plan into an initramfs. The same plan produces the same bytes, on any machine, at any
//! time, for any user.
//!
//! The image is a row of segments, one per origin of files. Each is a complete archive, compressed
//! separately and cached by its content, so a change of one leaves the others unchanged.

mod compression;
mod segment;
mod written;

pub use self::compression::Compression;

use super::plan::Plan;
use crate::artifacts::cache::Cache;
use crate::artifacts::tree::{read_json, write_json};
use crate::common::digest::{Hasher, sha256};
use crate::common::error::{Doing, Result};
use crate::common::files::Staged;
use crate::common::ui::{Ui, Unit};
use segment::{Cached, Segment, segments};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;

/// Bytes that are hashed at a time.
const CHUNK: usize = 256 << 10;
/// Number of segments that the cache keeps.
const KEPT: usize = 32;
/// The cache directory for states of partial digests.
const HASHED: &str = "hashed";
const STATE: &str = "state.json";
/// An image that was written.
pub struct Packed {
    /// Its size in bytes.
    pub bytes: u64,
    /// Its SHA-256, lower-case hex.
    pub sha256: String,
    /// Key of its segments.
    key: String,
}

impl Packed {
    /// Remembers that `path` has this image now.
    ///
    /// # Errors
    /// The cache cannot be written.
    pub fn remember(&self, path: &Path, cache: &Cache) -> Result<()> {
        written::remember(path, self, cache)
    }
}

/// All segments of an image, compressed, in the cache.
pub struct Segments {
    made: Vec<Cached>,
}

/// Compresses the segments of a plan that are not in the cache yet.
pub fn compress(plan: &Plan, compression: Compression, cache: &Cache, ui: &Ui) -> Result<Segments> {
    let segments = segments(plan, compression);
    let bar = ui.bar("packing", segments.iter().map(Segment::bytes).sum(), Unit::Bytes);
    let made = segments.iter().map(|segment| segment.make(plan, cache, &bar)).collect::<Result<_>>()?;
    drop(bar);
    cache.forget(segment::ROOM, KEPT)?;
    Ok(Segments { made })
}

impl Segments {
    /// Size of the image in bytes.
    pub fn bytes(&self) -> u64 {
        let end = |end: u64, segment: &Cached| segment.start(end) + segment.bytes;
        self.made.iter().fold(0, end)
    }

    /// Stages the image for `path`, unless it is there already. It is hashed in parallel with copying.
    pub fn write(&self, path: &Path, cache: &Cache) -> Result<(Option<Staged>, Packed)> {
        let key = self.key(self.made.len());
        if let Some(packed) = written::before(path, &key, self.bytes(), cache)? {
            return Ok((None, packed));
        }
        std::thread::scope(|scope| {
            let hashing = scope.spawn(|| self.digest(cache));
            let staged = Staged::new(path, 0o644, |file| self.copy(file, path))?;
            let sha256 = hashing.join().expect("hashing does not panic")?;
            Ok((Some(staged), Packed { bytes: self.bytes(), sha256, key }))
        })
    }

    fn copy(&self, file: &mut File, path: &Path) -> Result<()> {
        let mut end = 0;
        for segment in &self.made {
            file.write_all(&padding(segment, end)).doing("writing", path)?;
            let mut source = File::open(&segment.path).doing("opening", &segment.path)?;
            // `io::copy` lets the file system copy the data if it can.
            let copied = io::copy(&mut source, file).doing("writing", path)?;
            segment.check_size(copied)?;
            end = segment.start(end) + copied;
        }
        Ok(())
    }

    /// Returns the SHA-256 of the image and checks each segment. Segments that an earlier build
    /// hashed in the same order are not hashed again.
    fn digest(&self, cache: &Cache) -> Result<String> {
        let (mut hasher, known) = self.hashed_before(cache)?;
        let (mut end, mut buffer) = (0, vec![0; CHUNK]);
        for (at, segment) in self.made.iter().enumerate() {
            let is_new = at >= known;
            if is_new {
                hasher.update(&padding(segment, end));
            }
            let mut source = File::open(&segment.path).doing("opening", &segment.path)?;
            let mut checksum = flate2::Crc::new();
            loop {
                let got = source.read(&mut buffer).doing("reading", &segment.path)?;
                if got == 0 {
                    break;
                }
                checksum.update(&buffer[..got]);
                if is_new {
                    hasher.update(&buffer[..got]);
                }
            }
            segment.check(checksum.sum())?;
            end = segment.start(end) + segment.bytes;
            if is_new {
                let state = hasher.state();
                cache.derived_checked(HASHED, &self.key(at + 1), |dir| {
                    write_json(&dir.join(STATE), &State { checksum: crc(&state), state })
                })?;
            }
        }
        cache.forget(HASHED, KEPT)?;
        Ok(hasher.hex())
    }

    /// The longest known partial digest of the first segments, and the number of these segments.
    fn hashed_before(&self, cache: &Cache) -> Result<(Hasher, usize)> {
        let room = cache.room(HASHED)?;
        let known = (1..=self.made.len()).rev().find_map(|count| {
            let State { checksum, state } = read_json(&room.join(self.key(count)).join(STATE)).ok()?;
            let hasher = Hasher::resume(&state).filter(|_| crc(&state) == checksum)?;
            Some((hasher, count))
        });
        Ok(known.unwrap_or_default())
    }

    /// Key of the first `count` segments: their content, in order.
    fn key(&self, count: usize) -> String {
        let names = self.made[..count]
            .iter()
            .map(|segment| format!("{} {} {:08x}\n", segment.key, segment.bytes, segment.checksum));
        sha256(names.collect::<String>().as_bytes())
    }
}

/// The [`Hasher::state`] after the first segments of an image.
#[derive(Serialize, Deserialize)]
struct State {
    checksum: u32,
    state: Vec<u8>,
}

fn crc(bytes: &[u8]) -> u32 {
    let mut sum = flate2::Crc::new();
    sum.update(bytes);
    sum.sum()
}

/// Zero bytes between the end of one segment and the start of the next.
fn padding(segment: &Cached, end: u64) -> Vec<u8> {
    vec![0; usize::try_from(segment.start(end) - end).unwrap_or_default()]
}
