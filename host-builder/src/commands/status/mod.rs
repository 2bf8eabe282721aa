//! `status`: asks running guests how they are.

mod watch;

use crate::cli::Status as Arguments;
use crate::error::Result;
use crate::query::clean::clean_json;
use crate::query::view::{self, Row};
use crate::query::{self, Answer, QueryError, Target, expand};
use crate::ui::print;
use image::status::{Outcome, Status};
use image::wire::Until;
use serde::Serialize;
use std::process::ExitCode;
use std::time::Duration;

const DEFAULT_WAIT: Duration = Duration::from_mins(1);
const DEFAULT_ANSWER: Duration = Duration::from_secs(10);

/// Exit codes: good, the answer is no, could not be asked.
const GOOD: u8 = 0;
const BAD: u8 = 1;
const UNASKED: u8 = 2;

/// Runs the command. The exit code is that of the guest with the highest.
pub fn run(args: &Arguments) -> Result<ExitCode> {
    if args.schema {
        print(&query::status_schema());
        return Ok(ExitCode::SUCCESS);
    }
    let single = match &args.targets[..] {
        [guests] => guests.single(),
        _ => None,
    };
    match single {
        Some(target) if args.watch => watch::one(args, target),
        Some(target) => one(args, target),
        None if args.watch => watch::many(args),
        None => {
            let targets = expand(&args.targets).required()?;
            let (text, code) = several(args, &targets);
            print(&text);
            Ok(ExitCode::from(code))
        }
    }
}

fn one(args: &Arguments, target: &Target) -> Result<ExitCode> {
    match ask(args, target) {
        Ok(status) => {
            let code = code(&status, args.wait);
            let text = if args.json {
                json_line(&Answer::of(target, Ok(status)))
            } else {
                view::screen(&status, view::wants_colour())
            };
            print(&text);
            Ok(ExitCode::from(code))
        }
        Err(error) => {
            if args.json {
                print(&json_line(&Answer::of(target, Err(&error))));
            }
            Err(error.into())
        }
    }
}

/// The table of several guests, or nothing where their lines of JSON are printed already, and the exit code.
fn several(args: &Arguments, targets: &[Target]) -> (String, u8) {
    // A status may be large. What is kept of it is little, and made where it was received.
    let work = |target: &Target| {
        let result = ask(args, target);
        let code = result.as_ref().map_or(UNASKED, |status| code(status, args.wait));
        if args.json {
            let answer = match result {
                Ok(status) => Answer::of(target, Ok(status)),
                Err(error) => Answer::of(target, Err(&error)),
            };
            (code, None, json_line(&answer))
        } else {
            (code, Some(Row::of(target, result.as_ref())), String::new())
        }
    };
    let mut rows: Vec<Option<Row>> = targets.iter().map(|_| None).collect();
    let mut worst = GOOD;
    query::of_each(targets, work, |index, (code, row, line)| {
        worst = worst.max(code);
        rows[index] = row;
        print(&line);
    });
    let rows: Vec<_> = rows.into_iter().flatten().collect();
    let text = if args.json { String::new() } else { view::table(&rows, view::wants_colour()) };
    (text, worst)
}

fn ask(args: &Arguments, target: &Target) -> std::result::Result<Status, QueryError> {
    match args.wait {
        None => query::status(target, args.timeout.unwrap_or(DEFAULT_ANSWER)),
        Some(until) => query::wait(target, until, args.timeout.unwrap_or(DEFAULT_WAIT)),
    }
}

/// One line, harmless to a terminal.
pub(super) fn json_line(value: &impl Serialize) -> String {
    let json = serde_json::to_string(value).expect("there is nothing in it that JSON cannot say");
    clean_json(&json) + "\n"
}

fn code(status: &Status, awaited: Option<Until>) -> u8 {
    let exit = status.container.as_ref().and_then(|container| container.exit);
    let good = match awaited {
        None | Some(Until::Ready) => status.outcome == Outcome::Ready,
        Some(Until::Exited) => exit.is_some_and(|exit| exit.code == Some(0)),
        Some(until) => until.decided(status) == Some(true),
    };
    if good { GOOD } else { BAD }
}
