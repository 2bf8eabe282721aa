//! `status --watch`: updates the status in place on the screen.

use super::answer::{DEFAULT_ANSWER, code};
use super::options::Status as Arguments;
use super::round::{self, Show};
use crate::common::error::{Error, Result};
use crate::common::interrupt;
use crate::common::terminal;
use crate::common::terminal::Look;
use crate::common::ui;
use crate::common::ui::{json_line, print_on};
use crate::guest_client;
use crate::guest_client::view;
use crate::guest_client::view::Row;
use crate::guest_client::{Answer, Target, expand};
use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// Longest time between two updates.
const LOOK: Duration = Duration::from_secs(1);
/// Time between two attempts to reach a guest that may be gone.
const AGAIN: Duration = Duration::from_millis(500);
/// Number of failed attempts after which a guest counts as gone.
const ATTEMPTS: u32 = 3;

/// Shows one guest until it is gone.
pub(super) fn one(args: &Arguments, target: &Target) -> Result<ExitCode> {
    prepare(args)?;
    let timeout = args.timeout.unwrap_or(DEFAULT_ANSWER);
    let begin = Instant::now();
    let mut last: Option<(u8, u64)> = None;
    let mut failures = 0;
    loop {
        match guest_client::status(target, timeout) {
            Ok(status) => {
                failures = 0;
                let is_new = last.is_none_or(|(_, events)| events != status.events);
                last = Some((code(&status, None), status.events));
                let goes_on = if !args.json {
                    draw(&view::screen(&status, Look::of_stdout()))
                } else if is_new {
                    print_on(&json_line(&Answer::of(target, Ok(status.clone()))))
                } else {
                    true
                };
                if !goes_on {
                    return Ok(ExitCode::SUCCESS);
                }
                guest_client::wait_for_change(target, &status, LOOK);
            }
            Err(error) => {
                failures += 1;
                let is_open = match last {
                    // A guest that is still starting.
                    None => error.is_passing() && begin.elapsed() + AGAIN < timeout,
                    Some(_) => !error.is_nonsense() && failures < ATTEMPTS,
                };
                match last {
                    _ if is_open => std::thread::sleep(AGAIN),
                    None => return Err(error.into()),
                    Some((code, _)) => {
                        ui::say(&format!("the guest is gone: {}", error.chain()));
                        return Ok(ExitCode::from(code));
                    }
                }
            }
        }
    }
}

/// Shows the table of several guests until the last of them is gone.
pub(super) fn many(args: &Arguments) -> Result<ExitCode> {
    prepare(args)?;
    expand(&args.targets).required()?;
    let timeout = args.timeout.unwrap_or(DEFAULT_ANSWER);
    let mut is_seen = true;
    // Guests come and go.
    let targets = || expand(&args.targets).targets;
    let code = round::follow(args.json, timeout, targets, |show| {
        is_seen = match show {
            Show::Table(rows) => draw(&the_worst_first(rows)),
            Show::Line(line) => print_on(line),
        };
        is_seen
    });
    if !is_seen {
        return Ok(ExitCode::SUCCESS);
    }
    ui::say("all guests are gone");
    Ok(ExitCode::from(code))
}

/// Checks that the output is a terminal, unless it is JSON.
fn prepare(args: &Arguments) -> Result<()> {
    if !args.json && !std::io::stdout().is_terminal() {
        return Err(Error::new("--watch needs a terminal: standard output is not one")
            .hint("add --json to get a line at each change, or use `events`"));
    }
    interrupt::is_the_end();
    Ok(())
}

fn rows() -> usize {
    terminal::size().map_or(24, |(_, rows)| rows)
}

/// The table in the order of the targets if all of it fits on the screen, else with the guests that
/// need attention first.
fn the_worst_first(rows_of_guests: &[Row]) -> String {
    let look = Look::of_stdout();
    let (head, texts) = view::table_parts(rows_of_guests, look);
    let text = head.clone() + &texts.concat();
    if look.wrap_to_draw(&text).lines().count() < rows() {
        return text;
    }
    let mut sorted: Vec<_> = rows_of_guests.iter().zip(texts).collect();
    sorted.sort_by_key(|(row, _)| row.badness());
    head + &sorted.into_iter().map(|(_, text)| text).collect::<String>()
}

/// Draws on the terminal. Returns `false` when the output is closed.
fn draw(text: &str) -> bool {
    print_on(&frame(&Look::of_stdout().wrap_to_draw(text), rows()))
}

/// Draws from the top of the screen without wrapping lines, and clears the rest. Reports the number
/// of lines that do not fit.
fn frame(text: &str, rows: usize) -> String {
    let mut out = String::from("\x1b[?7l\x1b[H");
    let room = rows.saturating_sub(1).max(1);
    let there = text.lines().count();
    let shown = if there <= room { there } else { room - 1 };
    let mut line = |text: &str| {
        out.push_str(text);
        out.push_str("\x1b[K\n");
    };
    text.lines().take(shown).for_each(&mut line);
    if there > shown {
        line(&format!("… {} more lines: status without --watch", there - shown));
    }
    out + "\x1b[J\x1b[?7h"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_fits_the_terminal_and_clears_what_was_there() {
        assert_eq!(frame("a\nb\n", 3), "\x1b[?7l\x1b[Ha\x1b[K\nb\x1b[K\n\x1b[J\x1b[?7h");
        let cut = "\x1b[?7l\x1b[Ha\x1b[K\n… 2 more lines: status without --watch\x1b[K\n\x1b[J\x1b[?7h";
        assert_eq!(frame("a\nb\nc\n", 3), cut);
    }
}
