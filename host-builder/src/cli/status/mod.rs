//! `status`: shows the status of running guests.

pub(crate) mod options;
mod round;
mod several;
#[cfg(test)]
mod tests;
mod watch;

use crate::cli::Status as Arguments;
use crate::common::clean::clean_json;
use crate::common::error::{Error, Result};
use crate::common::files::write_text;
use crate::common::interrupt;
use crate::common::terminal::Look;
use crate::common::ui::print_painted;
use crate::guest_client;
use crate::guest_client::view;
use crate::guest_client::{Answer, QueryError, Target, expand};
use image::status::{Exit, Outcome, Status};
use image::wire::Until;
use serde::Serialize;
use std::process::ExitCode;
use std::time::{Duration, Instant};

const DEFAULT_WAIT: Duration = Duration::from_mins(1);
const DEFAULT_ANSWER: Duration = Duration::from_secs(10);

/// Exit codes: ready, not ready, could not be queried.
const GOOD: u8 = 0;
const BAD: u8 = 1;
const UNASKED: u8 = 2;

/// Runs the command. With several guests, the exit code is the highest one.
pub fn run(args: &Arguments) -> Result<ExitCode> {
    if args.schema {
        print_painted(guest_client::STATUS_SCHEMA);
        return Ok(ExitCode::SUCCESS);
    }
    interrupt::makes_nothing();
    let single = match &args.targets[..] {
        [guests] => guests.single(),
        _ => None,
    };
    match single {
        Some(target) if args.watch => watch::one(args, target),
        Some(target) => one(args, target),
        None if args.plot.is_some() => {
            Err(Error::new("--plot draws the boot of one guest").hint("name one target, without a pattern"))
        }
        None if args.watch => watch::many(args),
        None => Ok(ExitCode::from(several::ask_all(args, &expand(&args.targets).required()?))),
    }
}

/// Longest time for an answer, or for the answers of several guests together.
fn patience(args: &Arguments) -> Duration {
    args.timeout.unwrap_or(if args.wait.is_some() { DEFAULT_WAIT } else { DEFAULT_ANSWER })
}

fn ask(wait: Option<Until>, target: &Target, deadline: Instant) -> std::result::Result<Status, QueryError> {
    match wait {
        None => guest_client::status_by(target, deadline),
        Some(until) => guest_client::wait_by(target, until, deadline),
    }
}

fn one(args: &Arguments, target: &Target) -> Result<ExitCode> {
    match ask(args.wait, target, Instant::now() + patience(args)) {
        Ok(status) => {
            let code = code(&status, args.wait);
            if let Some(path) = &args.plot {
                write_text(path, &view::plot(&status)?)?;
            }
            let text = if args.json {
                json_line(&Answer::of(target, Ok(status)))
            } else {
                view::screen(&status, Look::of_stdout())
            };
            print_painted(&text);
            Ok(ExitCode::from(code))
        }
        Err(error) => {
            if args.json {
                print_painted(&json_line(&Answer::of(target, Err(&error))));
            }
            Err(error.into())
        }
    }
}

/// One line, harmless to a terminal.
pub(crate) fn json_line(value: &impl Serialize) -> String {
    let json = serde_json::to_string(value).expect("there is nothing in it that JSON cannot say");
    clean_json(&json) + "\n"
}

fn code(status: &Status, awaited: Option<Until>) -> u8 {
    let exit = status.container.as_ref().and_then(|container| container.exit);
    let good = match awaited {
        None => status.outcome == Outcome::Ready,
        // Between two runs of a program that is started again, it has exited and the answer is open.
        Some(until) => {
            let is_good = until != Until::Exited || exit.is_some_and(Exit::is_success);
            until.decided(status) == Some(true) && is_good
        }
    };
    if good { GOOD } else { BAD }
}
