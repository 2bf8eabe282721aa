//! The command line of `diff`.

use clap::Args;
use std::path::PathBuf;

pub(super) const DIFF_HELP: &str = "\
Examples:
  host-builder diff old/initrd.img out/initrd.img
  host-builder diff --json a.img b.img | jq .driver

The driver's files in an image or on a disk of their own are compared by the manifests, which have their digests.

Exit codes: 0 the same files with the same attributes, 1 they differ, 2 one of them could not be read.";

/// Arguments of `diff`.
#[derive(Debug, Args)]
pub struct Diff {
    /// The image before.
    pub a: PathBuf,
    /// The image after.
    pub b: PathBuf,
    /// Print the differences as JSON on standard output.
    #[arg(long)]
    pub json: bool,
}
