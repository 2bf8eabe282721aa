//! `logs`: the output of a guest's container, or its kernel log.

use crate::cli::arguments::{duration, patience};
use crate::common::error::Result;
use crate::common::interrupt;
use crate::common::terminal::Look;
use crate::common::ui;
use crate::common::ui::json_line;
use crate::common::ui::print_on;
use crate::guest_client;
use crate::guest_client::Target;
use crate::guest_client::{End, Part, SCHEMA, view};
use clap::Args;
use image::event::{LogLine, LogSource};
use serde_json::json;
use std::fmt::Write;
use std::ops::ControlFlow;
use std::process::ExitCode;
use std::time::Duration;

pub(crate) const LOGS_HELP: &str = "\
Examples:
  host-builder logs vsock:5 --follow
  host-builder logs unix:out/vsock.sock --kernel | grep NVRM

The guest keeps the last 128 KiB of the container's output. Of the kernel log it has what the kernel's ring buffer keeps.
The number of lost lines is reported. Control characters and escape sequences are removed. With --json each line is an
object with `schema`, `target`, and `line` (`sequence`, `at_ms`, `level`, `text`) or `lost`.

Exit codes: 0 success; with --follow: the guest is gone; 2 the guest could not be queried, and the message says why.";

/// Arguments of `logs`.
#[derive(Debug, Args)]
pub struct Logs {
    /// The guest: unix:PATH[:PORT] or vsock:CID[:PORT]. Default port 1042.
    pub target: Target,
    /// Show the kernel log, which includes the lines of guest-init.
    #[arg(long, conflicts_with = "container")]
    pub kernel: bool,
    /// Show the output of the container's program. This is the default.
    #[arg(long)]
    pub container: bool,
    /// Wait for more lines until the guest is gone.
    #[arg(long, short)]
    pub follow: bool,
    /// Wait for a guest that does not answer yet.
    #[arg(long)]
    pub wait: bool,
    /// Longest time until the guest answers, such as 60s, 1500ms or 2m [default: 60s with --wait,
    /// else 10s].
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub timeout: Option<Duration>,
    /// Print each line as a line of JSON.
    #[arg(long)]
    pub json: bool,
}

/// Runs the command.
pub fn run(args: &Logs) -> Result<ExitCode> {
    interrupt::makes_nothing();
    let source = if args.kernel { LogSource::Kernel } else { LogSource::Container };
    let each = |part: Part<LogLine>| {
        if print_on(&text(args, &part)) { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    };
    if !args.follow {
        guest_client::all(&args.target, source, (args.wait, patience(args.timeout, args.wait)), each)?;
        return Ok(ExitCode::SUCCESS);
    }
    interrupt::is_the_end();
    // The log ends with the guest.
    if let End::Gone(_) = guest_client::follow(&args.target, source, patience(args.timeout, args.wait), each)?
    {
        ui::say("the guest is gone");
    }
    Ok(ExitCode::SUCCESS)
}

fn text(args: &Logs, part: &Part<LogLine>) -> String {
    let target = args.target.to_string();
    let mut out = String::new();
    if part.lost > 0 {
        if args.json {
            out.push_str(&json_line(&json!({ "schema": SCHEMA, "target": target, "lost": part.lost })));
        } else {
            let _ = writeln!(out, "… {} lines lost", part.lost);
        }
    }
    for line in &part.items {
        if args.json {
            out.push_str(&json_line(&json!({ "schema": SCHEMA, "target": target, "line": line })));
        } else {
            out.push_str(&view::log_line(line, Look::of_stdout()));
        }
    }
    out
}
