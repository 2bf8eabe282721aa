//! `status`: shows the status of running guests.

mod answer;
pub(crate) mod options;
mod round;
mod several;
#[cfg(test)]
mod tests;
mod watch;

use self::answer::{ask, code, patience};
use self::options::Status as Arguments;
use crate::common::error::{Error, Result};
use crate::common::files::write_text;
use crate::common::interrupt;
use crate::common::terminal::Look;
use crate::common::ui::{json_line, print_painted};
use crate::guest_client;
use crate::guest_client::view;
use crate::guest_client::{Answer, Target, expand};
use std::process::ExitCode;
use std::time::Instant;

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
