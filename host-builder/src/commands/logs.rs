//! `logs`: what the container of a guest, or its kernel, has written.

use super::status::json_line;
use crate::cli::{Logs as Arguments, patience};
use crate::error::Result;
use crate::interrupt;
use crate::query::{self, End, Part, SCHEMA, view};
use crate::terminal::Look;
use crate::ui::{self, print_on};
use image::event::{LogLine, LogSource};
use serde_json::json;
use std::fmt::Write;
use std::ops::ControlFlow;
use std::process::ExitCode;

/// Runs the command.
pub fn run(args: &Arguments) -> Result<ExitCode> {
    interrupt::makes_nothing();
    let source = if args.kernel { LogSource::Kernel } else { LogSource::Container };
    let each = |part: Part<LogLine>| {
        if print_on(&text(args, &part)) { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    };
    if !args.follow {
        query::all(&args.target, source, (args.wait, patience(args.timeout, args.wait)), each)?;
        return Ok(ExitCode::SUCCESS);
    }
    interrupt::is_the_end();
    // That a guest goes is how its log ends.
    if let End::Gone(_) = query::follow(&args.target, source, patience(args.timeout, args.wait), each)? {
        ui::say("the guest has gone");
    }
    Ok(ExitCode::SUCCESS)
}

fn text(args: &Arguments, part: &Part<LogLine>) -> String {
    let target = args.target.to_string();
    let mut out = String::new();
    if part.lost > 0 {
        if args.json {
            out.push_str(&json_line(&json!({ "schema": SCHEMA, "target": target, "lost": part.lost })));
        } else {
            let _ = writeln!(out, "… {} lines are lost", part.lost);
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
