//! Packs a plan into an initramfs: the same bytes for the same plan, on any machine, at any time, for any user.
//!
//! The image is a row of segments, one for each origin of files: each is a whole archive, compressed by itself and kept in
//! the cache by its content, so that a change of one leaves the others as they are.

mod compression;
mod output;
mod segment;

pub use compression::Compression;

use crate::cache::{Cache, Staged};
use crate::error::{Doing, Error, Result};
use crate::plan::Plan;
use crate::ui::{Ui, Unit};
use output::Output;
use segment::{Cached, Segment, segments};
use std::fs::File;
use std::path::Path;

/// Segments that are kept in the cache.
const KEPT: usize = 32;
/// An image that was written.
pub struct Packed {
    /// Its size in bytes.
    pub bytes: u64,
    /// Its SHA-256, lower-case hex.
    pub sha256: String,
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
    bar.finish_and_clear();
    cache.forget(segment::ROOM, KEPT)?;
    Ok(Segments { made })
}

impl Segments {
    /// Bytes of the image.
    pub fn bytes(&self) -> u64 {
        let end = |end: u64, segment: &Cached| segment.start(end) + segment.bytes;
        self.made.iter().fold(0, end)
    }

    /// Makes the image that will be at `path`.
    pub fn write(&self, path: &Path) -> Result<(Staged, Packed)> {
        let (mut bytes, mut sha256) = (0, String::new());
        let staged = Staged::new(path, 0o644, |file| {
            let mut out = Output::new(file);
            for segment in &self.made {
                out.fill(segment.start(out.written())).doing("writing", path)?;
                let mut source = File::open(&segment.path).doing("opening", &segment.path)?;
                let found = out.copy(&mut source).doing("writing", path)?;
                segment.check(found)?;
            }
            (bytes, sha256) = out.finish();
            Ok(())
        })?;
        Ok((staged, Packed { bytes, sha256 }))
    }
}

/// The error of content that is not what the manifest says.
pub(crate) fn altered(path: &str, expected: &str, found: &str) -> Error {
    Error::new(format!("{path}: expected sha256 {expected}, found {found}")).hint(
        "the cache was altered after the package was unpacked: remove the cache directory and run again",
    )
}
