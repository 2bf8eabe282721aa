//! The text output for guests: findings first, then the state. All text from a guest is cleaned, and every list is
//! limited; `--json` has everything.

mod lines;
mod parts;
mod table;
mod timeline;

pub use self::lines::{event_line, log_line};
pub use self::table::{Row, table};
pub use timeline::plot;

use crate::common::clean::clean;
use crate::common::terminal::{BOLD, DIM, GREEN, Look, RED, YELLOW};
use image::status::{Container, Exit, Finding, Outcome, Phase, Severity, Status};

/// Longest word: a path, a name, a model.
const WORD: usize = 120;
/// Longest sentence: a message, a line of a log, a command.
const LINE: usize = 400;
/// Most entries of one list.
const ENTRIES: usize = 32;
/// Most lines of evidence of one finding, as many as a guest keeps.
const EVIDENCE: usize = 20;

/// The status as text.
pub fn screen(status: &Status, look: Look) -> String {
    let mut view = View { out: String::new(), look };
    view.header(status);
    view.findings(&status.findings);
    view.timeline(status);
    view.gpus(status);
    view.nodes(status);
    view.files(status);
    view.resolved(status);
    view.container(status);
    view.memory(status);
    look.wrap(&view.out)
}

/// The most important finding: the first one of the highest severity.
pub fn worst(status: &Status) -> Option<&Finding> {
    let severity = status.findings.iter().map(|finding| finding.severity).max()?;
    status.findings.iter().find(|finding| finding.severity == severity)
}

struct View {
    out: String,
    look: Look,
}

impl View {
    fn paint(&self, code: &str, text: &str) -> String {
        self.look.paint(code, text)
    }

    fn line(&mut self, text: &str) {
        self.out.push_str(text.trim_end());
        self.out.push('\n');
    }

    /// Rows with a name, which has its own column and is on the first line only.
    fn rows(&mut self, name: &str, rows: &[String]) {
        let name = self.paint(BOLD, &format!("{name:<10}"));
        for (at, row) in rows.iter().enumerate() {
            let line = if at == 0 { format!("{name} {row}") } else { format!("{:<10} {row}", "") };
            self.line(&line);
        }
    }

    fn header(&mut self, status: &Status) {
        let (code, word) = state(status);
        let driver = match (&status.driver_planned, &status.driver_loaded) {
            (None, None) => "no driver".to_owned(),
            (Some(planned), None) => format!("driver {} (not loaded)", clean(planned, WORD)),
            (Some(planned), Some(loaded)) if planned == loaded => {
                format!("driver {} (loaded)", clean(loaded, WORD))
            }
            (planned, Some(loaded)) => {
                let planned = planned.as_deref().unwrap_or("none");
                format!("driver {} (loaded; planned {})", clean(loaded, WORD), clean(planned, WORD))
            }
        };
        let line = format!(
            "{}  phase {}, up {}, kernel {}, {driver}, guest-init {}",
            self.paint(&format!("{BOLD};{code}"), &word),
            image::text::name(status.phase),
            seconds(status.uptime_ms),
            clean(&status.kernel, WORD),
            clean(&status.version, WORD),
        );
        self.line(&line);
    }

    /// The most important finding in full, the others in short form.
    fn findings(&mut self, findings: &[Finding]) {
        let mut sorted: Vec<_> = findings.iter().collect();
        sorted.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
        for (at, finding) in sorted.iter().take(ENTRIES).enumerate() {
            let (code, word) = severity(finding.severity);
            let head = self.paint(code, &format!("{word} {}", finding.code.name()));
            self.line(&format!("{head}: {}", clean(&finding.message, LINE)));
            if at == 0 {
                self.evidence(&finding.evidence);
            }
            if !finding.hint.is_empty() {
                self.line(&format!("    what to do: {}", clean(&finding.hint, LINE)));
            }
            if at == 0 {
                // By the code, which is ours, not by the guest's words.
                self.line(&format!("    explained in {}", finding.code.link()));
            }
        }
        self.more(sorted.len(), ENTRIES, "findings");
    }

    fn evidence(&mut self, lines: &[String]) {
        for line in lines.iter().take(EVIDENCE) {
            let line = self.paint(DIM, &format!("    | {}", clean(line, LINE)));
            self.line(&line);
        }
        self.more(lines.len(), EVIDENCE, "lines");
    }

    fn more(&mut self, there: usize, shown: usize, what: &str) {
        if there > shown {
            self.line(&format!("    … {} more {what}; --json has them", there - shown));
        }
    }
}

/// The state of a guest in short form, with its colour.
fn state(status: &Status) -> (&'static str, String) {
    let exit = status.container.as_ref().and_then(|container| container.exit.map(|exit| (exit, container)));
    match (status.outcome, exit) {
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
fn looping(container: &Container) -> Option<String> {
    let last = container.last_exit.filter(|last| !last.is_success())?;
    Some(format!("restarted {}, {}", container.restarts, ended(last).1))
}

/// How a program ended.
fn ended(exit: Exit) -> (&'static str, String) {
    (if exit.is_success() { GREEN } else { RED }, exit.brief())
}

fn severity(severity: Severity) -> (&'static str, &'static str) {
    match severity {
        Severity::Error => (RED, "error"),
        Severity::Warning => (YELLOW, "warning"),
        Severity::Info => (DIM, "info"),
    }
}

/// Milliseconds as seconds, with integer arithmetic, because a guest may send any number.
fn seconds(ms: u64) -> String {
    format!("{}.{} s", ms / 1000, ms % 1000 / 100)
}

/// The same with full precision.
fn exact(ms: u64) -> String {
    format!("{}.{:03}", ms / 1000, ms % 1000)
}
