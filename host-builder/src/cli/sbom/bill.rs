//! The content of a bill of materials, of either format.

use super::origin::Origin;
use image::manifest::{File, Manifest};
use std::collections::BTreeMap;

/// The publisher of the driver.
pub const DRIVER_SUPPLIER: &str = "NVIDIA Corporation";
/// Its name.
pub const DRIVER_NAME: &str = "NVIDIA driver";
/// The value for a licence that was not checked.
pub const NO_ASSERTION: &str = "NOASSERTION";

/// What both kinds of document are made from.
pub struct Bill<'a> {
    /// The manifest.
    pub manifest: &'a Manifest,
    /// SHA-256 of the manifest, which has the digest of every file.
    pub digest: &'a str,
    /// In the form of a UUID.
    pub serial: String,
    /// Origins and their files, sorted.
    pub parts: Vec<(Origin, Vec<&'a File>)>,
}

impl<'a> Bill<'a> {
    /// Of an image with this manifest, whose SHA-256 is `digest`.
    pub fn of(manifest: &'a Manifest, digest: &'a str) -> Self {
        let mut by: BTreeMap<&str, Vec<&File>> = BTreeMap::new();
        for file in &manifest.files {
            by.entry(&file.origin).or_default().push(file);
        }
        let parts = by.into_iter().map(|(text, files)| (Origin::of(text, manifest), files)).collect();
        Self { manifest, digest, serial: uuid(digest), parts }
    }

    /// Whether files of an origin belong to the driver: files for containers, firmware and modules.
    pub fn is_of_driver(&self, files: &[&File]) -> bool {
        let Some(driver) = &self.manifest.driver else { return false };
        let firmware = image::layout::firmware_dir(&driver.version);
        files.iter().any(|file| {
            !file.capabilities.is_empty()
                || file.path.starts_with(&firmware)
                || file.path.contains(image::layout::GPU_MODULES_SUBDIR)
        })
    }
}

/// A UUID of version 8 (RFC 9562: custom layout) from a digest.
fn uuid(digest: &str) -> String {
    let part = |range: std::ops::Range<usize>| digest.get(range).unwrap_or_default();
    format!("{}-{}-8{}-8{}-{}", part(0..8), part(8..12), part(13..16), part(17..20), part(20..32))
}
