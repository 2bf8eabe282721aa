//! The command line of `logs`.

use super::time::duration;
use crate::query::Target;
use clap::Args;
use std::time::Duration;

pub(super) const LOGS_HELP: &str = "\
Examples:
  host-builder logs vsock:5 --follow
  host-builder logs unix:out/vsock.sock --kernel | grep NVRM

The guest keeps the last 128 KiB of the container's output, and of the kernel's log what the kernel keeps; what is lost is
said. Control characters and escape sequences are left out. With --json each line is an object with `schema`, `target`, and
`line` (`sequence`, `at_ms`, `level`, `text`) or `lost`.

Exit codes: 0 printed, or with --follow: the guest has gone; 2 could not be asked, and the message says why.";

/// Arguments of `logs`.
#[derive(Debug, Args)]
pub struct Logs {
    /// The guest: unix:PATH[:PORT] or vsock:CID[:PORT]. Default port 1042.
    pub target: Target,
    /// The kernel's log, with guest-init's own lines in it.
    #[arg(long, conflicts_with = "container")]
    pub kernel: bool,
    /// What the container's program writes; this is the default.
    #[arg(long)]
    pub container: bool,
    /// Wait for more, until the guest has gone.
    #[arg(long, short)]
    pub follow: bool,
    /// Wait for a guest that does not answer yet.
    #[arg(long)]
    pub wait: bool,
    /// Longest time until the guest answers, such as 60s, 1500ms or 2m [default: 60s with --wait, else 10s].
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub timeout: Option<Duration>,
    /// Print each line as a line of JSON.
    #[arg(long)]
    pub json: bool,
}
