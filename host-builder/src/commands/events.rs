//! `events`: what happens in a guest, as it happens.

use super::status::json_line;
use crate::cli::{Events as Arguments, patience};
use crate::error::Result;
use crate::interrupt;
use crate::query::clean::clean;
use crate::query::{self, End, EventLine, EventNews, News, Part, SCHEMA, Target, view};
use crate::terminal::Look;
use crate::ui::{self, print, print_on};
use image::event::{Event, Happening};
use image::status::Outcome;
use std::fmt::Write;
use std::io::IsTerminal;
use std::ops::ControlFlow;
use std::process::ExitCode;

/// Runs the command.
pub fn run(args: &Arguments) -> Result<ExitCode> {
    if args.schema {
        print(query::EVENT_SCHEMA);
        return Ok(ExitCode::SUCCESS);
    }
    interrupt::is_the_end();
    match &args.target {
        Some(target) => ask(args, target),
        None => listen(args),
    }
}

fn ask(args: &Arguments, target: &Target) -> Result<ExitCode> {
    let name = target.to_string();
    let (mut decided, mut over) = (false, false);
    let each = |part: Part<Event>| {
        decided |= part.items.iter().any(|event| query::is_decisive(&event.what));
        for event in &part.items {
            over = match event.what {
                Happening::Exited(_) | Happening::Outcome(Outcome::Failed) => true,
                Happening::Started { .. } => false,
                _ => over,
            };
        }
        if print_on(&text(args, &name, "", part)) {
            ControlFlow::Continue(())
        } else {
            ControlFlow::Break(())
        }
    };
    if args.no_follow {
        query::all(target, (), (args.wait, patience(args.timeout, args.wait)), each)?;
        return Ok(ExitCode::SUCCESS);
    }
    match query::follow(target, (), patience(args.timeout, args.wait), each)? {
        End::Enough => Ok(ExitCode::SUCCESS),
        End::Gone(error) => {
            // After its end nothing is wrong with the connection.
            let why = if over { String::new() } else { format!(": {}", error.chain()) };
            ui::say(&format!("the guest has gone{why}"));
            Ok(ExitCode::from(u8::from(!decided)))
        }
    }
}

fn listen(args: &Arguments) -> Result<ExitCode> {
    let each = |guest: &str, news: News| {
        let guest = clean(guest, 400);
        match news {
            News::Part(part) => {
                if !print_on(&text(args, &guest, &format!("{guest} "), part)) {
                    // Nobody reads any more. The sockets are removed as at any other end.
                    let _ = nix::sys::signal::raise(nix::sys::signal::Signal::SIGTERM);
                }
            }
            News::Ended(error) => ui::say(&format!("{guest} has gone: {}", error.chain())),
        }
    };
    query::listen(&args.listen, each)?;
    Ok(ExitCode::SUCCESS)
}

/// A program reads JSON, a person at a terminal text.
fn is_json(args: &Arguments) -> bool {
    args.json || !std::io::stdout().is_terminal()
}

/// The lines of a part; `prefix` stands before each that is for people.
fn text(args: &Arguments, name: &str, prefix: &str, part: Part<Event>) -> String {
    let mut out = String::new();
    let line = |news| json_line(&EventLine { schema: SCHEMA, target: name.to_owned(), news });
    if part.lost > 0 {
        if is_json(args) {
            out.push_str(&line(EventNews::Lost(part.lost)));
        } else {
            let _ = writeln!(out, "{prefix}… {} events are lost", part.lost);
        }
    }
    for event in part.items {
        if is_json(args) {
            out.push_str(&line(EventNews::Event(event)));
        } else {
            out.push_str(prefix);
            out.push_str(&view::event_line(&event, Look::of_stdout()));
        }
    }
    out
}
