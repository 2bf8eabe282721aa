//! The shared status board: every part of the boot writes what it knows, the server reads it.

use image::status::{Code, Finding, Outcome, Phase, PhaseOutcome, PhaseTime, Severity, Status};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// More findings than this are not kept: a hostile root must not fill the memory.
const MAX_FINDINGS: usize = 64;
/// Evidence lines per finding, and per GPU.
const MAX_EVIDENCE: usize = 20;
/// Characters of one text on the board. With the bounds above, a status stays far below the largest reply.
const MAX_TEXT: usize = 400;

/// A handle to the board; clones show the same board.
#[derive(Clone)]
pub struct Board(Arc<Shared>);

struct Shared {
    status: Mutex<Status>,
    changed: Condvar,
}

impl Board {
    /// A board at the start of a boot.
    pub fn new(kernel: String) -> Self {
        let status = Status {
            version: env!("CARGO_PKG_VERSION").into(),
            kernel,
            driver_planned: None,
            driver_loaded: None,
            phase: Phase::Start,
            outcome: Outcome::Pending,
            uptime_ms: 0,
            phases: Vec::new(),
            gpus: Vec::new(),
            nodes: Vec::new(),
            injected: Vec::new(),
            cache: None,
            resolved: Vec::new(),
            container: None,
            findings: Vec::new(),
        };
        Self(Arc::new(Shared { status: Mutex::new(status), changed: Condvar::new() }))
    }

    /// A board that goes on from a status another process left.
    pub fn resumed(status: Status) -> Self {
        Self(Arc::new(Shared { status: Mutex::new(status), changed: Condvar::new() }))
    }

    fn lock(&self) -> MutexGuard<'_, Status> {
        self.0.status.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the status and wakes whoever waits for a change.
    pub fn update<T>(&self, change: impl FnOnce(&mut Status) -> T) -> T {
        let result = change(&mut self.lock());
        self.0.changed.notify_all();
        result
    }

    /// The status now.
    pub fn snapshot(&self) -> Status {
        let mut status = self.lock().clone();
        status.uptime_ms = uptime_ms();
        status
    }

    /// Waits until `reached`, at most until `deadline`, and returns the status then.
    pub fn wait(&self, reached: impl Fn(&Status) -> bool, deadline: Instant) -> Status {
        let mut status = self.lock();
        while !reached(&status) {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            // Bounded, so that a missed wake-up costs a moment and never a hang.
            let wait = left.min(Duration::from_secs(1));
            status = self.0.changed.wait_timeout(status, wait).unwrap_or_else(PoisonError::into_inner).0;
        }
        let mut status = status.clone();
        status.uptime_ms = uptime_ms();
        status
    }

    /// A phase begins.
    pub fn begin(&self, phase: Phase) {
        log::info!("{phase:?}");
        self.update(|status| {
            status.phase = status.phase.max(phase);
            let time =
                PhaseTime { phase, start_ms: uptime_ms(), end_ms: None, outcome: PhaseOutcome::Running };
            status.phases.push(time);
        });
    }

    /// A phase ends.
    pub fn end(&self, phase: Phase, outcome: PhaseOutcome) {
        self.update(|status| {
            let running = |time: &&mut PhaseTime| time.phase == phase && time.end_ms.is_none();
            if let Some(time) = status.phases.iter_mut().rev().find(running) {
                (time.end_ms, time.outcome) = (Some(uptime_ms()), outcome);
            }
        });
    }

    /// Runs `work` as a phase.
    pub fn phase<T, E>(&self, phase: Phase, work: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
        self.begin(phase);
        let result = work();
        self.end(phase, if result.is_ok() { PhaseOutcome::Done } else { PhaseOutcome::Failed });
        result
    }

    /// Adds a finding, and says it in the log.
    pub fn finding(&self, mut finding: Finding) {
        clip(&mut finding.message);
        clip_lines(&mut finding.evidence);
        let level = match finding.severity {
            Severity::Error => log::Level::Error,
            Severity::Warning => log::Level::Warn,
            Severity::Info => log::Level::Info,
        };
        log::log!(level, "{}: {}", finding.code.name(), finding.message);
        for line in &finding.evidence {
            log::log!(level, "  {line}");
        }
        if !finding.hint.is_empty() {
            log::log!(level, "  what to do: {}", finding.hint);
        }
        self.update(|status| {
            if status.findings.len() < MAX_FINDINGS && !status.findings.contains(&finding) {
                status.findings.push(finding);
            }
        });
    }

    /// Changes one GPU, found by its PCI address.
    pub fn gpu(&self, bdf: &str, change: impl FnOnce(&mut image::status::Gpu)) {
        self.update(|status| {
            if let Some(gpu) = status.gpus.iter_mut().find(|gpu| gpu.bdf == bdf) {
                change(gpu);
                clip_lines(&mut gpu.evidence);
            }
        });
    }
}

fn clip(text: &mut String) {
    if let Some((at, _)) = text.char_indices().nth(MAX_TEXT) {
        text.truncate(at);
        text.push('…');
    }
}

/// Bounds a list of texts that come from elsewhere: kernel log, configuration.
pub fn clip_lines(lines: &mut Vec<String>) {
    lines.truncate(MAX_EVIDENCE);
    lines.iter_mut().for_each(clip);
}

/// Milliseconds since the kernel started.
pub fn uptime_ms() -> u64 {
    nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME)
        .map_or(0, |time| u64::try_from(Duration::from(time).as_millis()).unwrap_or(u64::MAX))
}

/// A finding of severity error.
pub fn error(code: Code, message: impl Into<String>, hint: impl Into<String>) -> Finding {
    Finding {
        code,
        severity: Severity::Error,
        message: message.into(),
        evidence: Vec::new(),
        hint: hint.into(),
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
    fn a_wait_ends_at_the_change_or_at_its_deadline() {
        let board = Board::new("k".into());
        let other = board.clone();
        let waiter = std::thread::spawn(move || {
            other.wait(|status| status.outcome == Outcome::Ready, Instant::now() + Duration::from_secs(30))
        });
        board.update(|status| status.outcome = Outcome::Ready);
        assert_eq!(waiter.join().unwrap().outcome, Outcome::Ready);
        let late = board.wait(|status| status.outcome == Outcome::Failed, Instant::now());
        assert_eq!(late.outcome, Outcome::Ready);
    }

    #[test]
    fn phases_keep_their_times_and_never_go_back() {
        let board = Board::new("k".into());
        board.begin(Phase::Root);
        board.begin(Phase::Gpu);
        board.end(Phase::Root, PhaseOutcome::Done);
        let status = board.snapshot();
        assert_eq!(status.phase, Phase::Root);
        assert_eq!(status.phases[0].outcome, PhaseOutcome::Done);
        assert_eq!(status.phases[1].end_ms, None);
    }

    #[test]
    fn a_board_full_of_what_others_wrote_still_fits_into_a_reply() {
        let board = Board::new("k".into());
        for number in 0..100 {
            let finding = error(Code::Internal, format!("{number} {}", "ä".repeat(5000)), "");
            board.finding(with_evidence(finding, vec!["x".repeat(5000); 100]));
        }
        let status = board.snapshot();
        assert_eq!(status.findings.len(), MAX_FINDINGS);
        let reply = image::wire::Reply::Status(Box::new(status));
        image::wire::write(&mut Vec::new(), &reply, image::wire::MAX_REPLY).unwrap();
    }
}
