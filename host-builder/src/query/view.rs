//! A status on one screen: what is wrong first, then what is there. Every word of the guest is cleaned and every list
//! bounded on its way out; `--json` has it all.

use super::clean::clean;
use super::is_exited;
use image::status::{Exit, Finding, Gpu, GpuState, Outcome, PhaseOutcome, Severity, Status};
use nix::sys::signal::Signal;
use std::fmt::Write;
use std::io::IsTerminal;

/// Longest word: a path, a name, a model.
const WORD: usize = 120;
/// Longest sentence: a message, a line of a log, a command.
const LINE: usize = 400;
/// Most entries of one list.
const ENTRIES: usize = 32;
/// Most lines of evidence of one thing.
const EVIDENCE: usize = 12;

const RED: &str = "31";
const GREEN: &str = "32";
const YELLOW: &str = "33";
const BOLD: &str = "1";
const DIM: &str = "2";

/// Whether standard output is a terminal that wants colour (<https://no-color.org>).
pub fn wants_colour() -> bool {
    std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// The status for people.
pub fn screen(status: &Status, colour: bool) -> String {
    let mut view = View { out: String::new(), colour };
    view.header(status);
    view.findings(&status.findings);
    view.gpus(status);
    view.nodes(status);
    view.files(status);
    view.resolved(status);
    view.container(status);
    view.phases(status);
    view.out
}

struct View {
    out: String,
    colour: bool,
}

impl View {
    fn paint(&self, code: &str, text: &str) -> String {
        if self.colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    fn line(&mut self, text: &str) {
        self.out.push_str(text.trim_end());
        self.out.push('\n');
    }

    /// A named row: the name in a column of its own, on the first line only.
    fn rows(&mut self, name: &str, rows: &[String]) {
        let name = self.paint(BOLD, &format!("{name:<10}"));
        for (at, row) in rows.iter().enumerate() {
            let line = if at == 0 { format!("{name} {row}") } else { format!("{:<10} {row}", "") };
            self.line(&line);
        }
    }

    fn header(&mut self, status: &Status) {
        let (code, word) = match status.outcome {
            Outcome::Pending => (YELLOW, "booting"),
            Outcome::Ready if is_exited(status) => (GREEN, "ended"),
            Outcome::Ready => (GREEN, "ready"),
            Outcome::Failed => (RED, "failed"),
        };
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
            self.paint(&format!("{BOLD};{code}"), word),
            name(status.phase),
            seconds(status.uptime_ms),
            clean(&status.kernel, WORD),
            clean(&status.version, WORD),
        );
        self.line(&line);
    }

    fn findings(&mut self, findings: &[Finding]) {
        let mut sorted: Vec<_> = findings.iter().collect();
        sorted.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
        for finding in sorted.iter().take(ENTRIES) {
            let (code, word) = match finding.severity {
                Severity::Error => (RED, "error"),
                Severity::Warning => (YELLOW, "warning"),
                Severity::Info => (DIM, "info"),
            };
            let head = self.paint(code, &format!("{word} {}", finding.code.name()));
            self.line(&format!("{head}: {}", clean(&finding.message, LINE)));
            self.evidence(&finding.evidence);
            if !finding.hint.is_empty() {
                self.line(&format!("    what to do: {}", clean(&finding.hint, LINE)));
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

    fn gpus(&mut self, status: &Status) {
        let gpus: &[Gpu] = &status.gpus;
        // Evidence of a finding is on the screen already.
        let shown: Vec<_> =
            status.findings.iter().take(ENTRIES).flat_map(|finding| &finding.evidence).collect();
        let is_new = |line: &&String| !shown.contains(line);
        for (at, gpu) in gpus.iter().take(ENTRIES).enumerate() {
            let code = match gpu.state {
                GpuState::Ready => GREEN,
                GpuState::Failed | GpuState::Unsupported | GpuState::Lost => RED,
                GpuState::Found | GpuState::Bound | GpuState::Initialising => YELLOW,
            };
            let mut row = format!(
                "{}  {:04x}:{:04x}  {}",
                clean(&gpu.bdf, WORD),
                gpu.vendor,
                gpu.device,
                self.paint(code, &name(gpu.state))
            );
            if let Some(minor) = gpu.minor {
                let _ = write!(row, "  /dev/nvidia{minor}");
            }
            if let Some(ms) = gpu.init_ms {
                let _ = write!(row, "  {ms} ms");
            }
            for word in [&gpu.model, &gpu.uuid].into_iter().flatten() {
                let _ = write!(row, "  {}", clean(word, WORD));
            }
            if let Some(firmware) = &gpu.firmware {
                let _ = write!(row, "  GSP {}", clean(firmware, WORD));
            }
            self.rows(if at == 0 { "gpus" } else { "" }, &[row]);
            self.evidence(&gpu.evidence.iter().filter(is_new).cloned().collect::<Vec<_>>());
        }
        self.more(gpus.len(), ENTRIES, "GPUs");
    }

    fn nodes(&mut self, status: &Status) {
        let paths = status.nodes.iter().take(ENTRIES).map(|node| clean(&node.path, WORD));
        let width = paths.map(|path| path.chars().count()).max().unwrap_or_default();
        let row = |node: &image::status::Node| {
            format!(
                "{:<width$}  {:>3}:{:<5} {:04o} {}:{}",
                clean(&node.path, WORD),
                node.major,
                node.minor,
                node.mode & 0o7777,
                node.uid,
                node.gid
            )
        };
        let rows: Vec<_> = status.nodes.iter().take(ENTRIES).map(row).collect();
        self.rows("nodes", &rows);
        self.more(status.nodes.len(), ENTRIES, "nodes");
    }

    fn files(&mut self, status: &Status) {
        let last = |path: &str| clean(path.rsplit('/').next().unwrap_or(path), WORD);
        let links: Vec<_> = status.injected.iter().filter(|entry| entry.link.is_some()).collect();
        if !status.injected.is_empty() {
            let mut row = format!("{} files, {} links", status.injected.len() - links.len(), links.len());
            for (at, link) in links.iter().take(ENTRIES).enumerate() {
                let _ = write!(row, "{} {}", if at == 0 { ":" } else { "" }, last(&link.path));
            }
            if links.len() > ENTRIES {
                row.push_str(" …");
            }
            self.rows("injected", &[row]);
        }
        if let Some(cache) = &status.cache {
            let row =
                format!("{} entries, {} bytes, {} links changed", cache.entries, cache.bytes, cache.links);
            self.rows("cache", &[row]);
        }
    }

    fn resolved(&mut self, status: &Status) {
        let row = |library: &image::status::Resolved| {
            let name = clean(&library.name, WORD);
            match &library.path {
                None => format!("{name} → {}", self.paint(RED, "not found")),
                Some(path) if library.ours => format!("{name} → {}", clean(path, LINE)),
                Some(path) => {
                    format!("{name} → {} {}", clean(path, LINE), self.paint(RED, "(not the injected file)"))
                }
            }
        };
        let rows: Vec<_> = status.resolved.iter().take(ENTRIES).map(row).collect();
        self.rows("loader", &rows);
        self.more(status.resolved.len(), ENTRIES, "names");
    }

    fn container(&mut self, status: &Status) {
        let Some(container) = &status.container else { return };
        let words = container.command.iter().take(ENTRIES).map(|word| clean(word, WORD));
        let command: Vec<_> = words.collect();
        let state = match &container.exit {
            None => self.paint(GREEN, "running"),
            Some(exit) => {
                let good = exit.code == Some(0) && !exit.oom;
                self.paint(if good { GREEN } else { RED }, &exit_text(*exit))
            }
        };
        let row = format!("pid {}, {state}: {}", container.pid, clean(&command.join(" "), LINE));
        self.rows("container", &[row]);
    }

    fn phases(&mut self, status: &Status) {
        let phase = |time: &image::status::PhaseTime| {
            let took = time.end_ms.map(|end| format!(" {} ms", end.saturating_sub(time.start_ms)));
            let took = took.unwrap_or_default();
            match time.outcome {
                PhaseOutcome::Done => format!("{}{took}", name(time.phase)),
                PhaseOutcome::Running => format!("{} …", name(time.phase)),
                PhaseOutcome::Skipped => format!("{} skipped", name(time.phase)),
                PhaseOutcome::Failed => self.paint(RED, &format!("{}{took} failed", name(time.phase))),
            }
        };
        let phases: Vec<_> = status.phases.iter().take(ENTRIES).map(phase).collect();
        if !phases.is_empty() {
            self.rows("phases", &[phases.join(" · ")]);
        }
    }
}

/// The name under which a unit variant stands in JSON.
fn name(value: impl serde::Serialize) -> String {
    serde_json::to_value(value).ok().and_then(|json| json.as_str().map(str::to_owned)).unwrap_or_default()
}

fn exit_text(exit: Exit) -> String {
    let mut text = match (exit.code, exit.signal) {
        (Some(code), _) => format!("exited with {code}"),
        (None, Some(signal)) => match Signal::try_from(signal) {
            Ok(signal) => format!("killed by {signal}"),
            Err(_) => format!("killed by signal {signal}"),
        },
        (None, None) => "ended".into(),
    };
    if exit.oom {
        text.push_str(", out of memory");
    }
    text
}

/// Milliseconds as seconds, in integers: a guest's number may be any.
fn seconds(ms: u64) -> String {
    format!("{}.{} s", ms / 1000, ms % 1000 / 100)
}
