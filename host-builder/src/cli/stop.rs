//! `stop`: stops guests.

use crate::cli::arguments::duration;
use crate::common::clean::clean_lines;
use crate::common::error::Result;
use crate::common::interrupt;
use crate::common::ui::{json_line, print_painted, say};
use crate::guest_client::{self, Failure, Guests, QueryError, SCHEMA, Stopped, Target, Told, expand};
use clap::Args;
use image::status::Phase;
use image::wire::{STOP_SIGNALS, stop_signal_names};
use nix::sys::signal::Signal;
use serde::Serialize;
use std::process::ExitCode;
use std::time::{Duration, Instant};

pub(crate) const STOP_HELP: &str = "\
Examples:
  host-builder stop unix:out/vsock.sock
  host-builder stop vsock:5 --grace 60s
  host-builder stop 'unix:/run/vms/*/vsock.sock' --signal INT

The program receives the signal. What still runs after the grace period is killed, the disks are unmounted, and the machine
powers off. The command ends when the guest no longer answers. A guest that is already stopping can be asked again: a shorter
grace period applies, a longer one does not. A guest accepts the request unless it was started with gpu_initrd.control=none,
or its initrd was built with --control none.

Exit codes (with several guests, the highest one): 0 the guest has ended; 1 it still answers when --timeout is over; 2 it
could not be asked, and the message says why.";

/// Time for everything but the grace period: the request, the kill, unmounting, the linger time.
pub(super) const BESIDES: Duration = Duration::from_secs(30);
/// Default grace period, if the guest's own is unknown.
const GRACE: Duration = image::config::STOP_GRACE;

/// Arguments of `stop`.
#[derive(Debug, Args)]
pub struct Stop {
    /// Guests: unix:PATH[:PORT] (* ? [] in PATH are wildcards) or vsock:CID[:PORT]. Default port 1042.
    #[arg(value_name = "TARGET", required = true)]
    pub targets: Vec<Guests>,
    /// Signal for the program: TERM, INT, HUP, QUIT, USR1, USR2 or KILL.
    #[arg(long, value_name = "SIGNAL", default_value = "TERM", value_parser = signal)]
    pub signal: Signal,
    /// Time until the program is killed, such as 10s, 1500ms or 2m [default: the guest's gpu_initrd.stop_grace, 10s].
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub grace: Option<Duration>,
    /// Longest time until the guest no longer answers [default: the grace period and 30s].
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub timeout: Option<Duration>,
    /// Print one line of JSON per guest: `schema`, `target`, and `ended` with `reason` and `exit_status`, or `error`.
    #[arg(long)]
    pub json: bool,
}

/// Parses the name of a signal, with or without `SIG`.
fn signal(text: &str) -> std::result::Result<Signal, String> {
    let name = text.to_ascii_uppercase();
    let name = name.strip_prefix("SIG").unwrap_or(&name);
    let found = STOP_SIGNALS.into_iter().find(|known| known.as_str().strip_prefix("SIG") == Some(name));
    found.ok_or_else(|| format!("expected {}", stop_signal_names()))
}

/// How one guest answered.
#[derive(Debug, Serialize)]
struct Line {
    schema: u32,
    target: String,
    /// Whether it no longer answers; `None` if it could not be asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    ended: Option<bool>,
    /// How its program ended, in words.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    /// Its exit status as in a shell, if its program has ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    exit_status: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<Failure>,
}

impl Line {
    fn of(target: &Target, result: &std::result::Result<Stopped, QueryError>) -> Self {
        let line = Self {
            schema: SCHEMA,
            target: target.to_string(),
            ended: None,
            reason: None,
            exit_status: None,
            error: None,
        };
        let (status, is_gone) = match result {
            Ok(Stopped::Gone(status)) => (status, true),
            Ok(Stopped::StillThere(status)) => (status, false),
            Err(error) => return Self { error: Some(Failure::of(error)), ..line },
        };
        let has_exited = status.phase == Phase::Exited;
        Self {
            ended: Some(is_gone),
            reason: has_exited.then(|| status.reason()),
            exit_status: has_exited.then(|| status.exit_status()),
            ..line
        }
    }

    fn code(&self) -> u8 {
        match self.ended {
            Some(true) => 0,
            Some(false) => 1,
            None => 2,
        }
    }

    fn text(&self) -> String {
        let reason = self.reason.as_deref().unwrap_or("it did not report how its program ended");
        match (&self.error, self.ended) {
            (Some(error), _) => {
                format!("{}: error: {}\n  what to do: {}\n", self.target, error.message, error.hint)
            }
            (None, Some(true)) => format!("{}: stopped: {reason}\n", self.target),
            (None, _) => format!(
                "{}: still answers\n  what to do: wait longer (--timeout), or end the VMM; host-builder status shows what the guest waits for\n",
                self.target
            ),
        }
    }
}

/// Runs the command. With several guests, the exit code is the highest one.
pub fn run(args: &Stop) -> Result<ExitCode> {
    interrupt::makes_nothing();
    let targets = expand(&args.targets).required()?;
    let timeout = args.timeout.unwrap_or(args.grace.unwrap_or(GRACE) + BESIDES);
    let work = |target: &Target, deadline: Instant| {
        let asked = guest_client::stop(target, args.signal as i32, args.grace, deadline);
        Line::of(target, &asked.and_then(|status| guest_client::wait_until_gone(target, status, deadline)))
    };
    let mut worst = 0;
    guest_client::of_each(&targets, timeout, work, |told| {
        let Told::Came(_, line) = told else { return };
        worst = worst.max(line.code());
        if args.json {
            print_painted(&json_line(&line));
        } else if line.code() == 0 {
            print_painted(&clean_lines(&line.text()));
        } else {
            say(clean_lines(&line.text()).trim_end());
        }
    });
    Ok(ExitCode::from(worst))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_have_their_usual_names() {
        assert_eq!(signal("TERM"), Ok(Signal::SIGTERM));
        assert_eq!(signal("sigkill"), Ok(Signal::SIGKILL));
        for text in ["", "15", "STOP", "SIG", "CHLD"] {
            assert!(signal(text).unwrap_err().starts_with("expected TERM, INT"), "{text}");
        }
    }

    #[test]
    fn each_end_has_its_line_and_its_code() {
        use image::status::{Container, Exit, Outcome, Status};
        let target: Target = "vsock:5".parse().unwrap();
        let exit = Some(Exit { code: Some(3), signal: None, oom: false });
        let container = Container {
            pid: 7,
            command: vec![],
            start_ms: 0,
            restarts: 0,
            exit,
            last_exit: None,
            oom_kills: 0,
            output: vec![],
        };
        let status = Status {
            phase: Phase::Exited,
            outcome: Outcome::Ready,
            container: Some(container),
            ..Status::default()
        };
        let line = |result| Line::of(&target, &result);
        let gone = line(Ok(Stopped::Gone(Box::new(status.clone()))));
        assert_eq!((gone.code(), gone.exit_status), (0, Some(3)));
        assert_eq!(gone.text(), "vsock:5:1042: stopped: the container ended: exit code 3\n");
        let there = line(Ok(Stopped::StillThere(Box::default())));
        assert!(there.code() == 1 && there.exit_status.is_none() && there.text().contains("still answers"));
        let refused = line(Err(QueryError::Refused { reason: "no".into() }));
        assert!(refused.code() == 2 && refused.text().contains("refused the request: no"));
    }
}
