//! The text that parts of the view are written to, and the words that they share.

use crate::common::terminal::{BOLD, DIM, GREEN, Look, RED, YELLOW};
use image::status::{Container, Exit, Finding, Outcome, Phase, Severity, Status};

/// Longest word: a path, a name, a model.
pub const WORD: usize = 120;
/// Longest sentence: a message, a line of a log, a command.
pub const LINE: usize = 400;
/// Most entries of one list.
pub const ENTRIES: usize = 32;
/// Most lines of evidence of one finding, as many as a guest keeps.
pub const EVIDENCE: usize = 20;

/// A text in the making.
pub struct View {
    /// The text.
    pub out: String,
    /// Its style.
    pub look: Look,
}

impl View {
    pub fn paint(&self, code: &str, text: &str) -> String {
        self.look.paint(code, text)
    }

    pub fn line(&mut self, text: &str) {
        self.out.push_str(text.trim_end());
        self.out.push('\n');
    }

    /// Rows with a name, which has its own column and is on the first line only.
    pub fn rows(&mut self, name: &str, rows: &[String]) {
        let name = self.paint(BOLD, &format!("{name:<10}"));
        for (at, row) in rows.iter().enumerate() {
            let line = if at == 0 { format!("{name} {row}") } else { format!("{:<10} {row}", "") };
            self.line(&line);
        }
    }

    pub fn more(&mut self, there: usize, shown: usize, what: &str) {
        if there > shown {
            self.line(&format!("    … {} more {what}; --json has them", there - shown));
        }
    }
}

/// The most important finding: the first one of the highest severity.
pub fn worst(status: &Status) -> Option<&Finding> {
    let severity = status.findings.iter().map(|finding| finding.severity).max()?;
    status.findings.iter().find(|finding| finding.severity == severity)
}

/// The state of a guest in short form, with its colour.
pub fn state(status: &Status) -> (&'static str, String) {
    let exit = status.container.as_ref().and_then(|container| container.exit.map(|exit| (exit, container)));
    match (status.outcome, exit) {
        (Outcome::Pending | Outcome::Ready, None) if status.phase == Phase::Stopping => {
            (YELLOW, "stopping".into())
        }
        (Outcome::Pending, None) if status.is_stopped() => (YELLOW, "stopped".into()),
        (Outcome::Pending, _) => (YELLOW, "booting".into()),
        (Outcome::Failed, _) => (RED, "failed".into()),
        (Outcome::Ready, None) if status.phase == Phase::Exited => (YELLOW, "ended".into()),
        (Outcome::Ready, None) => match status.container.as_ref().and_then(looping) {
            Some(word) => (YELLOW, word),
            None => (GREEN, "ready".into()),
        },
        (Outcome::Ready, Some((exit, _))) if status.phase == Phase::Exited => ended(exit),
        // With the number that its next start will have.
        (Outcome::Ready, Some((_, container))) => {
            (YELLOW, format!("restarting ({})", container.restarts.saturating_add(1)))
        }
    }
}

/// A program that was restarted after a failure.
pub fn looping(container: &Container) -> Option<String> {
    let last = container.last_exit.filter(|last| !last.is_success())?;
    Some(format!("restarted {}, {}", container.restarts, ended(last).1))
}

/// How a program ended.
pub fn ended(exit: Exit) -> (&'static str, String) {
    (if exit.is_success() { GREEN } else { RED }, exit.brief())
}

pub fn severity(severity: Severity) -> (&'static str, &'static str) {
    match severity {
        Severity::Error => (RED, "error"),
        Severity::Warning => (YELLOW, "warning"),
        Severity::Info => (DIM, "info"),
    }
}

/// Milliseconds as seconds, with integer arithmetic, because a guest may send any number.
pub fn seconds(ms: u64) -> String {
    format!("{}.{} s", ms / 1000, ms % 1000 / 100)
}

/// The same with full precision.
pub fn exact(ms: u64) -> String {
    format!("{}.{:03}", ms / 1000, ms % 1000)
}
