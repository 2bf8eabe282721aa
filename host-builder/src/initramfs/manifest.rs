//! Reads the manifest in an image.

use super::contents::absolute;
use super::cpio::Entry;
use super::tree::Tree;
use crate::common::error::{Error, Result};
use image::layout;
use image::manifest::{MAX_BYTES, Manifest, ManifestError};
use std::path::Path;

/// Whether an entry may be the manifest, so that its content must be kept.
pub fn is_manifest(entry: &Entry) -> bool {
    absolute(&entry.name) == layout::MANIFEST.as_bytes() && u64::from(entry.size) <= MAX_BYTES
}

/// The manifest and its bytes; `None` in an image of another tool.
pub fn manifest<'a>(tree: &Tree<'a>, path: &Path) -> Result<Option<(Manifest, &'a [u8])>> {
    let Some(left) = tree.paths.get(layout::MANIFEST.as_bytes()) else { return Ok(None) };
    let Some(bytes) = &left.item.content else {
        let message = format!("{}: expected a manifest of at most {MAX_BYTES} bytes", path.display());
        return Err(Error::new(message).hint("build the initrd again: this one was altered"));
    };
    let manifest = Manifest::from_json(bytes).map_err(|error| {
        let hint = match error {
            ManifestError::TooNew { .. } => "use a newer host-builder, or build the image again",
            _ => "build the image again",
        };
        Error::new(path.display().to_string()).source(error).hint(hint)
    })?;
    Ok(Some((manifest, bytes)))
}

/// The manifest of an image that must have been built by this tool.
pub fn required<'a>(tree: &Tree<'a>, path: &Path) -> Result<(Manifest, &'a [u8])> {
    manifest(tree, path)?.ok_or_else(|| {
        Error::new(format!(
            "{}: expected an initrd built by this tool, found no {}",
            path.display(),
            layout::MANIFEST
        ))
        .hint("inspect, list, cat, extract, examine and diff work on any initramfs")
    })
}
