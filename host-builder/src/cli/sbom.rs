//! The command line of `sbom`.

use clap::{Args, ValueEnum};
use std::path::PathBuf;

pub(super) const SBOM_HELP: &str = "\
Examples:
  host-builder sbom out/initrd.img > initrd.cdx.json
  host-builder sbom --format spdx out/initrd.img > initrd.spdx.json

Exit codes: 0 printed, 2 not an initramfs, or one without a manifest of this tool.";

/// Arguments of `sbom`.
#[derive(Debug, Args)]
pub struct Sbom {
    /// The image.
    pub image: PathBuf,
    /// Which kind of document; both are JSON.
    #[arg(long, value_enum, default_value_t = Format::Cyclonedx)]
    pub format: Format,
    /// For uniformity: the output is JSON in any case.
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
