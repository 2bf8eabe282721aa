//! The command lines of `man` and `completions`.

use clap::Args;
use std::path::PathBuf;

pub(super) const MAN_HELP: &str = "\
Examples:
  host-builder man ~/.local/share/man/man1 && man host-builder-status

Exit codes: 0 written, 2 failure.";

pub(super) const COMPLETIONS_HELP: &str = "\
Examples:
  host-builder completions bash > ~/.local/share/bash-completion/completions/host-builder

Exit codes: 0 printed, 2 usage.";

/// Arguments of `man`.
#[derive(Debug, Args)]
pub struct Man {
    /// Directory for the pages; made where it is not there.
    pub dir: PathBuf,
}

/// Arguments of `completions`.
#[derive(Debug, Args)]
pub struct Completions {
    /// The shell.
    pub shell: clap_complete::Shell,
}
