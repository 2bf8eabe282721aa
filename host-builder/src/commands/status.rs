//! `status`: asks a running guest how it is.

use crate::cli::{Awaited, Status as Arguments};
use crate::error::Result;
use crate::query::clean::clean_json;
use crate::query::{self, view};
use image::status::{Outcome, Status};
use image::wire::Until;
use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

const DEFAULT_WAIT: Duration = Duration::from_mins(1);
const DEFAULT_ANSWER: Duration = Duration::from_secs(10);

/// Runs the command. 0: ready; 1: not ready, or failed.
pub fn run(args: &Arguments) -> Result<ExitCode> {
    let status = match args.wait {
        None => query::status(&args.target, args.timeout.unwrap_or(DEFAULT_ANSWER))?,
        Some(awaited) => query::wait(&args.target, until(awaited), args.timeout.unwrap_or(DEFAULT_WAIT))?,
    };
    let text = if args.json {
        let json = serde_json::to_string_pretty(&status).expect("a status holds nothing that JSON cannot");
        clean_json(&json) + "\n"
    } else {
        view::screen(&status, view::wants_colour())
    };
    // A reader that has gone away (`| head`) changes nothing about the answer.
    let _ = std::io::stdout().write_all(text.as_bytes());
    Ok(if is_good(&status, args.wait) { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

fn until(awaited: Awaited) -> Until {
    match awaited {
        Awaited::Ready => Until::Ready,
        Awaited::Exited => Until::Exited,
    }
}

fn is_good(status: &Status, awaited: Option<Awaited>) -> bool {
    let exit = status.container.as_ref().and_then(|container| container.exit);
    match awaited {
        Some(Awaited::Exited) => exit.is_some_and(|exit| exit.code == Some(0)),
        _ => status.outcome == Outcome::Ready,
    }
}
