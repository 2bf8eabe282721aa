//! The status board: every part of the boot writes to it, and the server reads it. Changes become events in one place, so
//! that status and events are always consistent.

use super::events::Seen;
use super::followers::{Follower, Followers};
use super::ring::Ring;
use crate::kernel::sysinfo::{memory, uptime_ms};
use crate::locks::{Lock, Locked};
use crate::status::limits::{clip, clip_lines};
use image::event::{Event, Events, Happening, LogLine, Logs};
use image::status::{Finding, Outcome, Phase, PhaseOutcome, PhaseTime, Progress, Severity, Status};
use std::sync::{Arc, Condvar};
use std::time::{Duration, Instant};

/// Maximum number of findings, so that a hostile root cannot fill the memory.
const MAX_FINDINGS: usize = 64;
/// Number of events kept.
const MAX_EVENTS: usize = 512;
/// Bytes of the container's output that are kept, and maximum size of one answer.
const MAX_OUTPUT: usize = 128 << 10;
/// Bytes that a line uses in addition to its text.
const LINE_OVERHEAD: usize = 64;
/// Number of output lines in the status.
const LAST_LINES: usize = 10;
/// Maximum number of events in one answer.
const EVENTS_AT_ONCE: usize = 256;

/// A handle to the board; clones refer to the same board.
#[derive(Clone)]
pub struct Board(Arc<Shared>);

struct Shared {
    state: Lock<State>,
    changed: Condvar,
    followers: Followers,
}

struct State {
    status: Status,
    events: Ring<Event>,
    output: Ring<LogLine>,
}

impl Board {
    /// Creates a board at the start of a boot.
    pub fn new(kernel: String) -> Self {
        Self::resumed(Status { version: env!("CARGO_PKG_VERSION").into(), kernel, ..Status::default() })
    }

    /// Creates a board that continues from the status of another process.
    pub fn resumed(status: Status) -> Self {
        let events = Ring::new(MAX_EVENTS, status.events + 1);
        let state = State { status, events, output: Ring::new(MAX_OUTPUT, 1) };
        Self(Arc::new(Shared {
            state: Lock::new(state),
            changed: Condvar::new(),
            followers: Followers::default(),
        }))
    }

    fn lock(&self) -> Locked<'_, State> {
        self.0.state.lock()
    }

    /// Changes the status and wakes threads that wait for a change. A failed boot stays failed.
    pub fn update<T>(&self, change: impl FnOnce(&mut Status) -> T) -> T {
        let mut state = self.lock();
        let before = Seen::of(&state.status);
        let has_failed = state.status.outcome == Outcome::Failed;
        let result = change(&mut state.status);
        if has_failed {
            state.status.outcome = Outcome::Failed;
        }
        for what in before.changes(&state.status) {
            state.happened(what);
        }
        drop(state);
        self.0.changed.notify_all();
        result
    }

    /// Reads the status.
    pub fn look<T>(&self, look: impl FnOnce(&Status) -> T) -> T {
        look(&self.lock().status)
    }

    /// Records an event that does not change the status.
    pub fn happened(&self, what: Happening) {
        self.lock().happened(what);
        self.0.changed.notify_all();
    }

    /// Records a line of the container's output.
    pub fn output(&self, mut text: String) {
        clip(&mut text);
        let weight = text.len() + LINE_OVERHEAD;
        let line = |sequence| LogLine { sequence, at_ms: uptime_ms(), level: None, text };
        self.lock().output.push(weight, line);
        self.0.changed.notify_all();
    }

    /// Returns the status now.
    pub fn snapshot(&self) -> Status {
        self.lock().snapshot()
    }

    /// Waits until `reached` is true, at most until `deadline`, and returns the status.
    pub fn wait(&self, reached: impl Fn(&Status) -> bool, deadline: Instant) -> Status {
        self.until(deadline, |state| reached(&state.status)).snapshot()
    }

    /// Returns the events from a number on; waits for one until `deadline`.
    pub fn events(&self, from: u64, deadline: Instant) -> Events {
        let state = self.until(deadline, |state| state.events.next() > from.max(1));
        let (events, next, lost) = state.events.since(from, EVENTS_AT_ONCE);
        Events { events, next, lost }
    }

    /// Returns the container's output from a line number on; waits for a line until `deadline`.
    pub fn lines(&self, from: u64, deadline: Instant) -> Logs {
        let state = self.until(deadline, |state| state.output.next() > from.max(1));
        let (lines, next, lost) = state.output.since(from, MAX_OUTPUT);
        Logs { lines, next, lost }
    }

    /// Registers a follower of the events, which records what it has sent.
    pub fn follower(&self) -> Follower {
        self.0.followers.add()
    }

    /// Waits until every follower has sent all events, at most for `patience`.
    pub fn wait_until_sent(&self, patience: Duration) {
        let last = self.lock().status.events;
        let deadline = Instant::now() + patience;
        while !self.0.followers.have_sent(last) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn until(&self, deadline: Instant, reached: impl Fn(&State) -> bool) -> Locked<'_, State> {
        let mut state = self.lock();
        while !reached(&state) {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            // Bounded, so that a missed wake-up causes a short delay and never a hang.
            let wait = left.min(Duration::from_secs(1));
            state = state.wait(&self.0.changed, wait);
        }
        state
    }

    /// Begins a phase, unless the boot has failed.
    pub fn begin(&self, phase: Phase) {
        log::debug!("{} begins", image::text::name(phase));
        self.update(|status| {
            if status.outcome == Outcome::Failed {
                return;
            }
            status.phase = status.phase.max(phase);
            let outcome = PhaseOutcome::Running;
            status.phases.push(PhaseTime {
                phase,
                start_ms: uptime_ms(),
                end_ms: None,
                outcome,
                progress: None,
            });
        });
    }

    /// Updates the progress of a phase.
    pub fn progress(&self, phase: Phase, done: usize, total: usize) {
        let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        self.update(|status| {
            if let Some(time) = running(status, phase) {
                time.progress = Some(Progress { done: count(done), total: count(total) });
            }
        });
    }

    /// Ends a phase.
    pub fn end(&self, phase: Phase, outcome: PhaseOutcome) {
        let took = self.update(|status| {
            let time = running(status, phase)?;
            let now = uptime_ms();
            (time.end_ms, time.outcome) = (Some(now), outcome);
            Some(now.saturating_sub(time.start_ms))
        });
        if let Some(took) = took {
            say_phase(phase, outcome, took);
        }
    }

    /// Marks the running phases and the boot as failed.
    pub fn fail(&self) {
        let ended = self.update(|status| {
            let now = uptime_ms();
            status.outcome = Outcome::Failed;
            let running = status.phases.iter_mut().filter(|time| time.end_ms.is_none());
            let ended = running.map(|time| {
                (time.end_ms, time.outcome) = (Some(now), PhaseOutcome::Failed);
                (time.phase, now.saturating_sub(time.start_ms))
            });
            ended.collect::<Vec<_>>()
        });
        for (phase, took) in ended {
            say_phase(phase, PhaseOutcome::Failed, took);
        }
    }

    /// Runs `work` as a phase.
    pub fn phase<T, E>(&self, phase: Phase, work: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
        self.begin(phase);
        let result = work();
        self.end(phase, if result.is_ok() { PhaseOutcome::Done } else { PhaseOutcome::Failed });
        result
    }

    /// Adds the finding of an error and logs it. A duplicate has no effect.
    pub fn report(&self, error: impl Into<Finding>) {
        self.place(error.into(), false);
    }

    /// Reports an error that does not prevent anything, as a warning.
    pub fn warn(&self, error: impl Into<Finding>) {
        self.place(Finding { severity: Severity::Warning, ..error.into() }, false);
    }

    /// Reports the error that ends the boot, before every other one, since the first error is the reason.
    pub fn fatal(&self, error: impl Into<Finding>) {
        self.place(error.into(), true);
    }

    fn place(&self, mut finding: Finding, is_fatal: bool) {
        clip(&mut finding.message);
        clip_lines(&mut finding.evidence);
        if finding.at_ms == 0 {
            finding.at_ms = uptime_ms();
        }
        let mut state = self.lock();
        let is_known = |known: &Finding| known.code == finding.code && known.message == finding.message;
        if state.status.findings.iter().any(is_known) {
            return;
        }
        if keep(&mut state.status.findings, &finding, is_fatal) {
            let Finding { code, severity, message, .. } = finding.clone();
            state.happened(Happening::Finding { code, severity, message });
        }
        drop(state);
        self.0.changed.notify_all();
        say(&finding);
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

/// Inserts a finding. If the board is full, the oldest finding of the lowest severity is dropped, which may be the new one.
fn keep(findings: &mut Vec<Finding>, finding: &Finding, is_fatal: bool) -> bool {
    if findings.len() >= MAX_FINDINGS {
        let least = findings.iter().map(|known| known.severity).min();
        let Some(least) = least.filter(|least| *least < finding.severity || is_fatal) else { return false };
        findings.remove(findings.iter().position(|known| known.severity == least).unwrap_or_default());
    }
    let is_error = |known: &Finding| known.severity == Severity::Error;
    let first_error = findings.iter().position(is_error).filter(|_| is_fatal);
    findings.insert(first_error.unwrap_or(findings.len()), finding.clone());
    true
}

fn running(status: &mut Status, phase: Phase) -> Option<&mut PhaseTime> {
    status.phases.iter_mut().rev().find(|time| time.phase == phase && time.end_ms.is_none())
}

fn say_phase(phase: Phase, outcome: PhaseOutcome, took: u64) {
    log::info!("{} {} after {took} ms", image::text::name(phase), image::text::name(outcome));
}

fn say(finding: &Finding) {
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
}

impl State {
    fn happened(&mut self, what: Happening) {
        self.status.events = self.events.next();
        self.events.push(1, |sequence| Event { sequence, at_ms: uptime_ms(), what });
    }

    fn snapshot(&self) -> Status {
        let mut status = self.status.clone();
        status.uptime_ms = uptime_ms();
        status.memory = memory();
        if let Some(container) = &mut status.container {
            container.output = self.output.last(LAST_LINES).into_iter().map(|line| line.text).collect();
        }
        status
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::status::Code;

    fn error(code: Code, message: impl Into<String>) -> Finding {
        Finding::new(code, Severity::Error, message, Vec::new())
    }

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
    fn what_matters_has_a_place_on_a_full_board() {
        let board = Board::new("k".into());
        for number in 0..MAX_FINDINGS {
            board.warn(error(Code::ConfigUnknownKey, number.to_string()));
        }
        let newest = board.snapshot().events;
        board.warn(error(Code::GpuXid, "one more warning"));
        assert_eq!(board.snapshot().events, newest, "it is in the log only");
        board.report(error(Code::GpuLost, "an error"));
        board.fatal(error(Code::EntrypointNotFound, "the end"));
        let findings = board.snapshot().findings;
        let texts: Vec<&str> = findings.iter().map(|finding| &*finding.message).collect();
        assert_eq!((texts.len(), texts[0]), (MAX_FINDINGS, "2"));
        assert_eq!(texts[MAX_FINDINGS - 2..], ["the end", "an error"]);
        assert_eq!(board.snapshot().events, newest + 2);
    }

    #[test]
    fn a_failure_is_final() {
        let board = Board::new("k".into());
        board.begin(Phase::Gpu);
        board.fail();
        board.update(|status| status.outcome = Outcome::Ready);
        board.begin(Phase::Exec);
        let status = board.snapshot();
        assert_eq!((status.outcome, status.phases.len()), (Outcome::Failed, 1));
        assert_eq!(status.phases[0].outcome, PhaseOutcome::Failed);
    }

    #[test]
    fn a_board_full_of_what_others_wrote_still_fits_into_a_reply() {
        let board = Board::new("k".into());
        for number in 0..100 {
            let message = format!("{number} {}", "ä".repeat(5000));
            let evidence = vec!["x".repeat(5000); 100];
            board.report(Finding::new(Code::Internal, Severity::Error, message, evidence));
        }
        let status = board.snapshot();
        assert_eq!(status.findings.len(), MAX_FINDINGS);
        let reply = image::wire::Reply::Status(Box::new(status));
        image::wire::write(&mut Vec::new(), &reply, image::wire::MAX_REPLY).unwrap();
    }
}
