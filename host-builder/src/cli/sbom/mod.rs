//! `sbom`: prints a bill of materials of an image from its manifest. The same image produces the
//! same document: it has no time, and its serial number is derived from the manifest's digest.

mod bill;
mod cyclonedx;
mod origin;
mod spdx;
#[cfg(test)]
mod tests;

use self::bill::Bill;
use super::list::warn;
use crate::common::digest::sha256;
use crate::common::error::Result;
use crate::common::ui::print_as_json;
use crate::initramfs::manifest::{is_manifest, required};
use crate::initramfs::{Archive, Want};
use clap::{Args, ValueEnum};
use serde_json::Value;
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

/// Runs the command.
pub fn run(args: &Sbom) -> Result<()> {
    let contents = Archive::open(&args.image)?.read(&Want { digests: false, keep: &is_manifest })?;
    let tree = contents.tree();
    let (manifest, bytes) = required(&tree, &args.image)?;
    let digest = sha256(bytes);
    let bill = Bill::of(&manifest, &digest);
    warn(&args.image, &contents, &tree);
    let document: Value = match args.format {
        Format::Cyclonedx => cyclonedx::document(&bill),
        Format::Spdx => spdx::document(&bill),
    };
    print_as_json(&document);
    Ok(())
}
