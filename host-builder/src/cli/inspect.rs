//! The command line of `inspect`.

use clap::Args;
use std::path::PathBuf;

pub(super) const INSPECT_HELP: &str = "\
Examples:
  host-builder inspect out/initrd.img
  host-builder inspect --files /boot/initrd.img
  host-builder inspect --ld-cache root/etc/ld.so.cache

Exit codes: 0 shown, 2 no such file, or neither an initramfs nor a cache.";

/// Arguments of `inspect`.
#[derive(Debug, Args)]
pub struct Inspect {
    /// Initramfs to show: of this tool, or of any other.
    #[arg(required_unless_present = "ld_cache")]
    pub image: Option<PathBuf>,
    /// Print every entry too, in order.
    #[arg(long, requires = "image")]
    pub files: bool,
    /// Loader cache (`ld.so.cache`) to print instead.
    #[arg(long, value_name = "FILE", conflicts_with = "image")]
    pub ld_cache: Option<PathBuf>,
    /// Print everything, the entries too, as JSON on standard output.
    #[arg(long)]
    pub json: bool,
}
