//! Copies single files out of an image.

use super::archive::Archive;
use super::cpio::kind;
use super::tree::Tree;
use crate::common::error::{Doing, Result};
use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};

/// Copies regular files to existing directories of this machine. `place` returns the destination of
/// a path, or `None` to skip it. Returns the number of copied files.
pub fn take(
    archive: &Archive,
    tree: &Tree,
    place: impl Fn(&[u8]) -> Result<Option<PathBuf>>,
) -> Result<usize> {
    let mut wanted: BTreeMap<usize, Vec<PathBuf>> = BTreeMap::new();
    let mut count = 0;
    for (path, left) in tree.paths.iter().filter(|(_, left)| left.kind() == kind::FILE) {
        if let Some(place) = place(path)? {
            wanted.entry(left.number).or_default().push(place);
            count += 1;
        }
    }
    let mut at = 0;
    archive.walk(|_, entry, content| {
        if let Some([first, others @ ..]) = wanted.get(&at).map(Vec::as_slice) {
            let mut file = File::create(first).doing("creating", first)?;
            content.copy(entry, &mut file, first)?;
            for other in others {
                std::fs::copy(first, other).doing("copying to", other)?;
            }
        }
        at += 1;
        Ok(())
    })?;
    Ok(count)
}

/// Copies the regular file `path` to `place`. Returns whether the file exists.
pub fn take_one(archive: &Archive, tree: &Tree, path: &str, place: &Path) -> Result<bool> {
    let is_it = |found: &[u8]| Ok((found == path.as_bytes()).then(|| place.to_owned()));
    Ok(take(archive, tree, is_it)? > 0)
}
