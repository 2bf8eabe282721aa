//! The errors of archives.

use crate::common::error::Error;
use std::path::Path;

/// The error for an archive that cannot be read to its end.
pub fn damaged(origin: &Path, error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::new(format!("{}: is truncated or damaged", origin.display()))
        .source(error)
        .hint("remove it and run again to fetch it again")
}

/// The error for a refused entry.
pub fn refused(origin: &Path, entry: &Path, why: &str) -> Error {
    Error::new(format!("{}: entry {:?} is refused: {why}", origin.display(), entry.display()))
        .hint("check where the archive came from: publishers do not create such entries")
}
