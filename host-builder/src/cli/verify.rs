//! The command line of `verify`.

use clap::Args;
use std::path::PathBuf;

pub(super) const VERIFY_HELP: &str = "\
Examples:
  host-builder verify out/initrd.img
  host-builder verify out/initrd.img --lock initrd.lock
  host-builder verify out/initrd.img --payload out/driver.img

Exit codes: 0 all as stated, 1 something differs, 2 not an initramfs, or one without a manifest of this tool.";

/// Arguments of `verify`.
#[derive(Debug, Args)]
pub struct Verify {
    /// The image.
    pub image: PathBuf,
    /// Lock that the image must have been made from: every package, the kernel, the driver and the profile.
    #[arg(long, value_name = "FILE")]
    pub lock: Option<PathBuf>,
    /// Payload disk that belongs to the image: its size, its file system and its hash tree.
    #[arg(long, value_name = "DISK")]
    pub payload: Option<PathBuf>,
    /// Print the differences as JSON on standard output.
    #[arg(long)]
    pub json: bool,
}
