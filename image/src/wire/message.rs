//! What host and guest say to each other: requests and replies, and what an older version of the protocol does not have.

use super::{OLDEST, VERSION};
use crate::event::{Events, Happening, LogSource, Logs};
use crate::session::Exec;
use crate::status::{Code, Outcome, Phase, PhaseOutcome, Status};
use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};

/// Signals that [`Request::Stop`] can send.
pub const STOP_SIGNALS: [Signal; 7] = [
    Signal::SIGTERM,
    Signal::SIGINT,
    Signal::SIGHUP,
    Signal::SIGQUIT,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGKILL,
];

/// Returns the names of [`STOP_SIGNALS`], without `SIG`.
pub fn stop_signal_names() -> String {
    STOP_SIGNALS.map(|signal| signal.as_str().trim_start_matches("SIG")).join(", ")
}

/// What the host asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// The status now.
    Status,
    /// The status once `until` is reached, cannot be reached any more, or `timeout_ms` is over.
    Wait {
        /// What to wait for.
        until: Until,
        /// Deadline in milliseconds.
        timeout_ms: u64,
    },
    /// What has happened, from a number on. Waits until there is something, or the time is over.
    Events {
        /// The number of the first event that is wanted: 0, or what [`Events::next`] said.
        from: u64,
        /// Longest wait in milliseconds; 0: none.
        timeout_ms: u64,
    },
    /// Lines of a log, from a number on. Waits until there is something, or the time is over.
    Logs {
        /// Whose.
        source: LogSource,
        /// The number of the first line that is wanted: 0, or what [`Logs::next`] said.
        from: u64,
        /// Longest wait in milliseconds; 0: none.
        timeout_ms: u64,
    },
    /// Stop the guest: the program receives the signal, and what still runs after the grace period is killed. Repeated, it can
    /// shorten the period. The reply is the status. Since version 8.
    Stop {
        /// Number of the signal.
        signal: i32,
        /// The grace period in milliseconds; `None`: the guest's own.
        grace_ms: Option<u64>,
    },
    /// Run a command in the container, or copy its files. The reply is [`Reply::Session`] or [`Reply::NotStarted`], and the
    /// connection then belongs to the session. Since version 8.
    Exec(Box<Exec>),
}

impl Request {
    /// Returns the first version of the protocol that has this request.
    pub fn since(&self) -> u16 {
        match self {
            Self::Status | Self::Wait { .. } | Self::Events { .. } | Self::Logs { .. } => OLDEST,
            Self::Stop { .. } | Self::Exec(_) => 8,
        }
    }

    /// Returns the name of the request.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Status => "status",
            Self::Wait { .. } => "wait",
            Self::Events { .. } => "events",
            Self::Logs { .. } => "logs",
            Self::Stop { .. } => "stop",
            Self::Exec(_) => "exec",
        }
    }
}

/// What [`Request::Wait`] waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Until {
    /// The boot has an outcome.
    Ready,
    /// The program has ended.
    Exited,
    /// This phase is over; [`Phase::Running`], [`Phase::Stopping`] and [`Phase::Exited`]: it has begun.
    Phase(Phase),
}

impl Until {
    /// Whether it has come (`true`) or can come no more (`false`); `None` while that is open.
    pub fn decided(self, status: &Status) -> Option<bool> {
        let ended = status.phase == Phase::Exited || status.outcome == Outcome::Failed;
        let reached = match self {
            Self::Ready => status.outcome == Outcome::Ready,
            Self::Exited => status.phase == Phase::Exited,
            Self::Phase(phase @ (Phase::Running | Phase::Stopping | Phase::Exited)) => status.phase >= phase,
            Self::Phase(phase) => {
                let time = status.phases.iter().find(|time| time.phase == phase);
                match time.map(|time| time.outcome) {
                    Some(PhaseOutcome::Done | PhaseOutcome::Skipped) => true,
                    Some(PhaseOutcome::Failed) => return Some(false),
                    // A phase that this boot had no need for.
                    None => status.phase > phase && status.outcome == Outcome::Ready,
                    Some(PhaseOutcome::Running) => false,
                }
            }
        };
        if reached { Some(true) } else { ended.then_some(false) }
    }
}

/// What the guest answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    /// The status.
    Status(Box<Status>),
    /// The request was not understood, or cannot be served now. Keeps its place and form in every version.
    Refused(String),
    /// Events; none when nothing happened within the time given.
    Events(Events),
    /// Lines of a log; none when nothing was written within the time given.
    Logs(Logs),
    /// The command runs; the connection belongs to its session. Since version 8.
    Session,
    /// The command does not run. Since version 8.
    NotStarted {
        /// Why.
        message: String,
        /// Exit status as in a shell: 127 if the program was not found, 126 if it cannot be executed, 125 otherwise.
        exit_status: u8,
    },
}

impl Reply {
    /// Returns the reply for a reader of an older version, without what that version does not have.
    #[must_use]
    pub fn for_version(mut self, version: u16) -> Self {
        if version < 8 {
            match &mut self {
                Self::Status(status) => status_before_8(status),
                Self::Events(events) => events.events.retain_mut(|event| is_before_8(&mut event.what)),
                Self::Refused(_) | Self::Logs(_) | Self::Session | Self::NotStarted { .. } => {}
            }
        }
        self
    }

    /// Returns the oldest version that has everything in this reply.
    pub fn oldest_version(&self) -> u16 {
        if matches!(self, Self::Session | Self::NotStarted { .. }) {
            return 8;
        }
        let is_whole = |version: &u16| self.clone().for_version(*version) == *self;
        (OLDEST..VERSION).find(is_whole).unwrap_or(VERSION)
    }
}

/// Number of codes of findings in version 7.
const CODES_7: usize = Code::DriverFileMissing as usize + 1;

fn code_before_8(code: &mut Code) {
    if *code as usize >= CODES_7 {
        *code = Code::Internal;
    }
}

fn status_before_8(status: &mut Status) {
    if status.phase == Phase::Stopping {
        status.phase = Phase::Running;
    }
    status.phases.retain(|time| time.phase != Phase::Stopping);
    status.findings.iter_mut().for_each(|finding| code_before_8(&mut finding.code));
}

/// Whether version 7 can express it, after a change of what it can express otherwise.
fn is_before_8(what: &mut Happening) -> bool {
    match what {
        Happening::Stop { .. }
        | Happening::SessionStarted { .. }
        | Happening::SessionEnded { .. }
        | Happening::Phase { phase: Phase::Stopping, .. } => false,
        Happening::Finding { code, .. } => {
            code_before_8(code);
            true
        }
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_ends_when_the_answer_is_known_to_be_no() {
        use crate::status::PhaseTime;
        let mut status = Status { phase: Phase::Gpu, ..Status::default() };
        let all = [Until::Ready, Until::Exited, Until::Phase(Phase::Gpu), Until::Phase(Phase::Root)];
        let decided = |status: &Status| all.map(|until| until.decided(status));
        assert_eq!(decided(&status), [None; 4]);
        let time = |phase, outcome| PhaseTime { phase, start_ms: 0, end_ms: None, outcome, progress: None };
        status.phases = vec![time(Phase::Root, PhaseOutcome::Running), time(Phase::Gpu, PhaseOutcome::Done)];
        assert_eq!(decided(&status), [None, None, Some(true), None]);
        status.phases[0].outcome = PhaseOutcome::Failed;
        assert_eq!(decided(&status), [None, None, Some(true), Some(false)]);
        status.outcome = Outcome::Failed;
        assert_eq!(decided(&status), [Some(false), Some(false), Some(true), Some(false)]);
        let mut status = Status { phase: Phase::Running, outcome: Outcome::Ready, ..Status::default() };
        assert_eq!(decided(&status), [Some(true), None, Some(true), Some(true)]);
        assert_eq!(Until::Phase(Phase::Exited).decided(&status), None);
        status.phase = Phase::Exited;
        assert_eq!(decided(&status), [Some(true); 4]);
    }
}
