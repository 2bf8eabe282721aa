//! Free space on a disk: unpacked data may use at most half of it.

use super::error::{Doing, Error, Result};
use super::ui::megabytes;
use std::path::Path;

/// Returns half of the free space for this user on the file system of `directory`, in bytes.
pub fn half(directory: &Path) -> Result<u64> {
    let space = nix::sys::statvfs::statvfs(directory).map_err(std::io::Error::from);
    let space = space.doing("looking for space in", directory)?;
    Ok(space.blocks_available() * space.fragment_size() / 2)
}

/// The error for data that needs more than `most` bytes, half of the free space.
pub fn short(what: &str, directory: &Path, most: u64) -> Error {
    let message = format!("{what}, and half of the space in {} is {}", directory.display(), megabytes(most));
    Error::new(message).hint("free some space there, or choose another directory: GPU_INITRD_CACHE")
}
