//! The command line of `cat`.

use clap::Args;
use std::path::PathBuf;

pub(super) const CAT_HELP: &str = "\
Examples:
  host-builder cat out/initrd.img /usr/share/gpu-initrd/manifest.json
  host-builder cat /boot/initrd.img etc/fstab scripts/functions

Exit codes: 0 printed, 2 no such file, one that is no regular file, or not an initramfs.";

/// Arguments of `cat`.
#[derive(Debug, Args)]
pub struct Cat {
    /// The initramfs.
    pub image: PathBuf,
    /// Files in it, with or without a leading slash. Links are not followed.
    #[arg(required = true)]
    pub paths: Vec<String>,
    /// Print an array of {path, size, sha256, text} instead, text only where the content is UTF-8 and at most 1 MiB.
    #[arg(long)]
    pub json: bool,
}
