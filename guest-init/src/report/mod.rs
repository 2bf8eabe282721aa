//! What is told: the status board, and how a finding is made.

mod board;
mod changes;

pub use board::Board;

use image::status::{Code, Container, Finding, Memory, Severity};
use std::time::Duration;

/// Evidence lines per finding, and per GPU.
pub const MAX_EVIDENCE: usize = 20;
/// Of them, those that are kept from the end, where a driver says what became of what it tried.
const LAST_EVIDENCE: usize = 11;
/// Characters of one text on the board. With the bounds on their numbers, a status stays far below the largest reply.
const MAX_TEXT: usize = 400;
/// What the kernel says of the guest's memory.
pub const MEMINFO: &str = "/proc/meminfo";

fn clip(text: &mut String) {
    if let Some((at, _)) = text.char_indices().nth(MAX_TEXT) {
        text.truncate(at);
        text.push('…');
    }
}

/// Bounds a list of texts that come from elsewhere: kernel log, configuration.
pub fn clip_lines(lines: &mut Vec<String>) {
    if let Some(left_out) = lines.len().checked_sub(MAX_EVIDENCE).filter(|more| *more > 0) {
        let end = lines.split_off(lines.len() - LAST_EVIDENCE);
        lines.truncate(MAX_EVIDENCE - LAST_EVIDENCE - 1);
        lines.push(format!("… {} lines are left out", left_out + 1));
        lines.extend(end);
    }
    lines.iter_mut().for_each(clip);
}

/// Milliseconds since the kernel started.
pub fn uptime_ms() -> u64 {
    nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME)
        .map_or(0, |time| u64::try_from(Duration::from(time).as_millis()).unwrap_or(u64::MAX))
}

/// The guest's memory now.
pub fn memory() -> Option<Memory> {
    let text = std::fs::read_to_string(MEMINFO).ok()?;
    let own = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let (total, available) = (meminfo(&text, "MemTotal:")?, meminfo(&text, "MemAvailable:")?);
    Some(Memory { total, available, init: meminfo(&own, "VmHWM:").unwrap_or(0) })
}

/// A field of [`MEMINFO`], or of a file like it, bytes.
pub fn meminfo(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib * 1024)
}

/// A container that has been started just now.
pub fn started(pid: u32, mut command: Vec<String>, restarts: u32) -> Container {
    clip_lines(&mut command);
    let start_ms = uptime_ms();
    Container {
        pid,
        command,
        start_ms,
        restarts,
        exit: None,
        last_exit: None,
        oom_kills: 0,
        output: Vec::new(),
    }
}

/// A finding of severity error.
pub fn error(code: Code, message: impl Into<String>, hint: impl Into<String>) -> Finding {
    Finding {
        code,
        severity: Severity::Error,
        at_ms: 0,
        message: message.into(),
        evidence: Vec::new(),
        hint: hint.into(),
        link: code.link(),
    }
}

/// A finding of severity warning.
pub fn warning(code: Code, message: impl Into<String>, hint: impl Into<String>) -> Finding {
    Finding { severity: Severity::Warning, ..error(code, message, hint) }
}

/// Adds evidence to a finding.
pub fn with_evidence(finding: Finding, evidence: Vec<String>) -> Finding {
    Finding { evidence, ..finding }
}

/// An error with everything underneath it, as one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(error) = next {
        text = format!("{text}: {error}");
        next = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_much_evidence_the_beginning_and_the_end_are_kept() {
        let list = |range: std::ops::Range<u32>| range.map(|n| n.to_string()).collect::<Vec<_>>();
        let mut lines = list(0..60);
        clip_lines(&mut lines);
        let expected = [list(0..8), vec!["… 41 lines are left out".into()], list(49..60)].concat();
        assert_eq!((lines.len(), &lines), (MAX_EVIDENCE, &expected));
        clip_lines(&mut lines);
        assert_eq!(lines, expected);
    }
}
