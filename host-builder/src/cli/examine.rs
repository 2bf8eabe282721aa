//! The command line of `examine`.

use clap::Args;
use std::path::PathBuf;

pub(super) const EXAMINE_HELP: &str = "\
Examples:
  host-builder examine /boot/initrd.img
  dd if=initrd.img iflag=skip_bytes,count_bytes skip=OFFSET count=SIZE | zstd -d | cpio -t

Exit codes: 0 shown, 2 no such file, or not an initramfs.";

/// Arguments of `examine`.
#[derive(Debug, Args)]
pub struct Examine {
    /// The initramfs.
    pub image: PathBuf,
    /// Print the segments as JSON on standard output.
    #[arg(long)]
    pub json: bool,
}
