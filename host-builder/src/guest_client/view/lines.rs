//! Formats an event or a log line as one line.

use super::screen::{LINE, WORD, exact, severity};
use crate::common::clean::clean;
use crate::common::terminal::{DIM, GREEN, Look, RED, YELLOW};
use image::event::{Event, Happening, LogLine};
use image::session::Task;
use image::status::{GpuState, Outcome, PhaseOutcome};
use image::text::name;

/// Longest line of a log: the guest clips the container's at 400 characters, and the kernel's are
/// no longer than 1 KiB.
const LOG: usize = 2000;

/// An event, with its time in seconds since the kernel started.
pub fn event_line(event: &Event, look: Look) -> String {
    let (code, text) = match &event.what {
        Happening::Phase { phase, outcome } => {
            let code = if *outcome == PhaseOutcome::Failed { RED } else { "" };
            (code, format!("phase {} {}", name(phase), name(outcome)))
        }
        Happening::Gpu { bdf, state } => {
            let code = match state {
                GpuState::Ready => GREEN,
                GpuState::Failed | GpuState::Unsupported | GpuState::Lost => RED,
                GpuState::Found | GpuState::Bound | GpuState::Initialising => "",
            };
            (code, format!("GPU {} {}", clean(bdf, WORD), name(state)))
        }
        Happening::Xid { bdf, code, line } => {
            (RED, format!("Xid {code} of {}: {}", clean(bdf, WORD), clean(line, LINE)))
        }
        Happening::Finding { code, severity: how, message } => {
            let (paint, word) = severity(*how);
            (paint, format!("{word} {}: {}", code.name(), clean(message, LINE)))
        }
        Happening::Started { pid, restarts: 0 } => ("", format!("container started, pid {pid}")),
        Happening::Started { pid, restarts } => {
            (YELLOW, format!("container started again ({restarts}), pid {pid}"))
        }
        Happening::Exited(exit) => {
            let code = if exit.is_success() { GREEN } else { RED };
            (code, format!("container ended: {exit}"))
        }
        Happening::Stop { by, signal, grace_ms } => {
            let signal = image::status::signal_name(*signal);
            let grace = exact(*grace_ms);
            (YELLOW, format!("stop requested ({}): {signal}, then SIGKILL after {grace} s", name(by)))
        }
        Happening::SessionStarted { session, task } => {
            let what = match task {
                Task::Command(command) => format!("runs {}", clean(&command.join(" "), LINE)),
                Task::Read(path) => format!("copies {} to the host", clean(path, LINE)),
                Task::Write { path, .. } => format!("copies from the host to {}", clean(path, LINE)),
            };
            (YELLOW, format!("session {session} {what}"))
        }
        Happening::SessionEnded { session, exit } => ("", format!("session {session} ended: {exit}")),
        Happening::Outcome(outcome) => {
            let code = if *outcome == Outcome::Failed { RED } else { GREEN };
            (code, format!("boot {}", name(outcome)))
        }
    };
    let text = if code.is_empty() { text } else { look.paint(code, &text) };
    format!("{} {text}\n", time(event.at_ms, look))
}

/// A log line: with its time and the colour of its level if it has one, else unchanged.
pub fn log_line(line: &LogLine, look: Look) -> String {
    let text = clean(&line.text, LOG);
    let Some(level) = line.level else { return text + "\n" };
    let text = match level {
        0..=3 => look.paint(RED, &text),
        4 => look.paint(YELLOW, &text),
        5 | 6 => text,
        _ => look.paint(DIM, &text),
    };
    format!("{} {text}\n", time(line.at_ms, look))
}

/// A time in the format of dmesg.
fn time(at_ms: u64, look: Look) -> String {
    look.paint(GREEN, &format!("[{:>9}]", exact(at_ms)))
}
