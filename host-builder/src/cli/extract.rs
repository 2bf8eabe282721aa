//! The command line of `extract`.

use clap::Args;
use std::path::PathBuf;

pub(super) const EXTRACT_HELP: &str = "\
Examples:
  host-builder extract out/initrd.img --to /tmp/initrd
  sudo host-builder extract /boot/initrd.img --to /tmp/initrd --devices

Exit codes: 0 unpacked, 2 not an initramfs, or the directory could not be made; then there is none.";

/// Arguments of `extract`.
#[derive(Debug, Args)]
pub struct Extract {
    /// The initramfs.
    pub image: PathBuf,
    /// Directory to make; it must not be there, or be empty.
    #[arg(long, value_name = "DIR")]
    pub to: PathBuf,
    /// Make device nodes, named pipes and sockets too, instead of saying how many there are.
    #[arg(long)]
    pub devices: bool,
    /// Keep set-user-ID and set-group-ID bits, as root, instead of saying how many there are.
    #[arg(long)]
    pub set_ids: bool,
    /// Print what was unpacked as JSON on standard output.
    #[arg(long)]
    pub json: bool,
}
