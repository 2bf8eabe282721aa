//! Room on a disk: what unpacks takes no more than half of it, whatever it is.

use super::error::{Doing, Error, Result};
use super::ui::megabytes;
use std::path::Path;

/// Half of what is free for us where `directory` is, bytes.
pub fn half(directory: &Path) -> Result<u64> {
    let space = nix::sys::statvfs::statvfs(directory).map_err(std::io::Error::from);
    let space = space.doing("looking for space in", directory)?;
    Ok(space.blocks_available() * space.fragment_size() / 2)
}

/// Why something is not put there: it takes more than `most` bytes, half of what is free.
pub fn short(what: &str, directory: &Path, most: u64) -> Error {
    let message = format!("{what}, and half of the space in {} is {}", directory.display(), megabytes(most));
    Error::new(message).hint("make space there, or name another place: GPU_INITRD_CACHE")
}
