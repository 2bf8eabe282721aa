//! `events`: the events of a guest as they occur.

use crate::cli::arguments::{duration, patience};
use crate::common::clean::clean;
use crate::common::error::Result;
use crate::common::interrupt;
use crate::common::terminal::Look;
use crate::common::ui;
use crate::common::ui::json_line;
use crate::common::ui::{print, print_on};
use crate::guest_client;
use crate::guest_client::{Address, End, EventLine, EventNews, News, Part, SCHEMA, Target, view};
use clap::Args;
use image::event::{Event, Happening};
use image::status::Outcome;
use std::fmt::Write;
use std::io::IsTerminal;
use std::ops::ControlFlow;
use std::process::ExitCode;
use std::time::Duration;

pub(crate) const EVENTS_HELP: &str = "\
Examples:
  host-builder events vsock:5
  host-builder events unix:out/vsock.sock --no-follow | jq .event
  host-builder events --listen vsock:9000                      # gpu_initrd.notify=vsock:2:9000
  host-builder events --listen unix:/run/vms/1/vsock.sock:9000 # the same with a hybrid socket

Output to a terminal is text. Any other output, and with --json also a terminal, is one JSON object per line with
`schema`, `target`, and `event` or `lost`; --schema prints the JSON Schema.

With --listen, up to 1024 connections are open at a time: up to 4 per guest, and up to 256 beyond the first connection
of each guest, so that every guest can connect. Refused connections are reported on standard error once a minute.

Exit codes:
  0  the guest ended after its boot had an outcome or its program had exited; --no-follow: success; Ctrl-C
  1  the guest ended before that
  2  the guest could not be queried, and the message says why; --listen: could not listen";

/// Arguments of `events`.
#[derive(Debug, Args)]
pub struct Events {
    /// The guest: unix:PATH[:PORT] or vsock:CID[:PORT]. Default port 1042.
    #[arg(value_name = "TARGET", required_unless_present_any = ["listen", "schema"])]
    pub target: Option<Target>,
    /// Wait for more events until the guest is gone. This is the default.
    #[arg(long)]
    pub follow: bool,
    /// Print the events so far, then exit.
    #[arg(long, conflicts_with = "follow")]
    pub no_follow: bool,
    /// Accept connections from guests that push their events: vsock:PORT, or unix:PATH:PORT for a
    /// hybrid socket (listens on PATH_PORT). May be given more than once.
    #[arg(long, value_name = "ADDR", conflicts_with_all = ["target", "follow", "no_follow", "timeout"])]
    pub listen: Vec<Address>,
    /// Wait for a guest that does not answer yet.
    #[arg(long, conflicts_with = "listen")]
    pub wait: bool,
    /// Longest time until the guest answers, such as 60s, 1500ms or 2m [default: 60s with --wait,
    /// else 10s].
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub timeout: Option<Duration>,
    /// Print each event as a line of JSON, also to a terminal.
    #[arg(long)]
    pub json: bool,
    /// Print the JSON Schema of a line of --json, then exit.
    #[arg(long, exclusive = true)]
    pub schema: bool,
}

/// Runs the command.
pub fn run(args: &Events) -> Result<ExitCode> {
    if args.schema {
        print(guest_client::EVENT_SCHEMA);
        return Ok(ExitCode::SUCCESS);
    }
    interrupt::is_the_end();
    match &args.target {
        Some(target) => ask(args, target),
        None => listen(args),
    }
}

fn ask(args: &Events, target: &Target) -> Result<ExitCode> {
    let name = target.to_string();
    let (mut decided, mut over) = (false, false);
    let each = |part: Part<Event>| {
        decided |= part.items.iter().any(|event| guest_client::is_decisive(&event.what));
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
        guest_client::all(target, (), (args.wait, patience(args.timeout, args.wait)), each)?;
        return Ok(ExitCode::SUCCESS);
    }
    match guest_client::follow(target, (), patience(args.timeout, args.wait), each)? {
        End::Enough => Ok(ExitCode::SUCCESS),
        End::Gone(error) => {
            // After its end nothing is wrong with the connection.
            let why = if over { String::new() } else { format!(": {}", error.chain()) };
            ui::say(&format!("the guest is gone{why}"));
            Ok(ExitCode::from(u8::from(!decided)))
        }
    }
}

fn listen(args: &Events) -> Result<ExitCode> {
    let each = |guest: &str, news: News| {
        let guest = clean(guest, 400);
        match news {
            News::Part(part) => {
                if !print_on(&text(args, &guest, &format!("{guest} "), part)) {
                    // The output is closed. The sockets are removed as at any other end.
                    let _ = nix::sys::signal::raise(nix::sys::signal::Signal::SIGTERM);
                }
            }
            News::Ended(error) => ui::say(&format!("{guest} disconnected: {}", error.chain())),
        }
    };
    guest_client::listen(&args.listen, each)?;
    Ok(ExitCode::SUCCESS)
}

/// JSON for programs, text for a person at a terminal.
fn is_json(args: &Events) -> bool {
    args.json || !std::io::stdout().is_terminal()
}

/// The lines of a part; `prefix` is put before each line of text.
fn text(args: &Events, name: &str, prefix: &str, part: Part<Event>) -> String {
    let mut out = String::new();
    let line = |news| json_line(&EventLine { schema: SCHEMA, target: name.to_owned(), news });
    if part.lost > 0 {
        if is_json(args) {
            out.push_str(&line(EventNews::Lost(part.lost)));
        } else {
            let _ = writeln!(out, "{prefix}… {} events lost", part.lost);
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
