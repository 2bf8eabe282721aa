//! `sbom`: prints a bill of materials of an image from its manifest. The same image produces the same document: it has
//! no time, and its serial number is derived from the manifest's digest.

mod cyclonedx;
mod origin;
mod spdx;
#[cfg(test)]
mod tests;

use super::list::warn;
use crate::cli::SbomFormat;
use crate::common::digest::sha256;
use crate::common::error::Result;
use crate::common::ui::print_as_json;
use crate::initramfs::manifest::{is_manifest, required};
use crate::initramfs::{Archive, Want};
use clap::{Args, ValueEnum};
use image::manifest::{File, Manifest};
use origin::Origin;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::PathBuf;

pub(crate) const SBOM_HELP: &str = "\
Examples:
  host-builder sbom out/initrd.img > initrd.cdx.json
  host-builder sbom --format spdx out/initrd.img > initrd.spdx.json

Exit codes: 0 success, 2 the file is not an initramfs, or has no manifest of this tool.";

/// Arguments of `sbom`.
#[derive(Debug, Args)]
pub struct Sbom {
    /// The initrd.
    pub image: PathBuf,
    /// Format of the document. Both are JSON.
    #[arg(long, value_enum, default_value_t = Format::Cyclonedx)]
    pub format: Format,
    /// Accepted for consistency with other commands. The output is always JSON.
    #[arg(long)]
    pub json: bool,
}

/// A kind of document.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// CycloneDX 1.6.
    Cyclonedx,
    /// SPDX 2.3.
    Spdx,
}

/// The publisher of the driver.
const DRIVER_SUPPLIER: &str = "NVIDIA Corporation";
const DRIVER_NAME: &str = "NVIDIA driver";
/// The value for a licence that was not checked.
const NO_ASSERTION: &str = "NOASSERTION";

/// Runs the command.
pub fn run(args: &Sbom) -> Result<()> {
    let contents = Archive::open(&args.image)?.read(&Want { digests: false, keep: &is_manifest })?;
    let tree = contents.tree();
    let (manifest, bytes) = required(&tree, &args.image)?;
    let digest = sha256(bytes);
    let bill = Bill::of(&manifest, &digest);
    warn(&args.image, &contents, &tree);
    let document: Value = match args.format {
        SbomFormat::Cyclonedx => cyclonedx::document(&bill),
        SbomFormat::Spdx => spdx::document(&bill),
    };
    print_as_json(&document);
    Ok(())
}

/// What both kinds of document are made from.
struct Bill<'a> {
    manifest: &'a Manifest,
    /// SHA-256 of the manifest, which has the digest of every file.
    digest: &'a str,
    /// In the form of a UUID.
    serial: String,
    /// Origins and their files, sorted.
    parts: Vec<(Origin, Vec<&'a File>)>,
}

impl<'a> Bill<'a> {
    fn of(manifest: &'a Manifest, digest: &'a str) -> Self {
        let mut by: BTreeMap<&str, Vec<&File>> = BTreeMap::new();
        for file in &manifest.files {
            by.entry(&file.origin).or_default().push(file);
        }
        let parts = by.into_iter().map(|(text, files)| (Origin::of(text, manifest), files)).collect();
        Self { manifest, digest, serial: uuid(digest), parts }
    }

    /// Whether files of an origin belong to the driver: files for containers, firmware and modules.
    fn is_of_driver(&self, files: &[&File]) -> bool {
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
