//! The command line of `list`.

use clap::Args;
use std::path::PathBuf;

pub(super) const LIST_HELP: &str = "\
Examples:
  host-builder list out/initrd.img
  host-builder list --json /boot/initrd.img | jq -r '.files[] | select(.size > 1000000) | .name'

Exit codes: 0 listed, 2 no such file, or not an initramfs.";

/// Arguments of `list`.
#[derive(Debug, Args)]
pub struct List {
    /// The initramfs.
    pub image: PathBuf,
    /// Print every entry's header as JSON on standard output.
    #[arg(long)]
    pub json: bool,
}
