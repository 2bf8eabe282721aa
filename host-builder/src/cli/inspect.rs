//! The command line of `inspect`.

use clap::Args;
use std::path::PathBuf;

pub(super) const INSPECT_HELP: &str = "\
Examples:
  host-builder inspect --ld-cache root/etc/ld.so.cache

Exit codes: 0 shown, 2 no such file, or not a cache.";

/// Arguments of `inspect`.
#[derive(Debug, Args)]
pub struct Inspect {
    /// Loader cache (`ld.so.cache`) to print.
    #[arg(long, value_name = "FILE")]
    pub ld_cache: PathBuf,
}
