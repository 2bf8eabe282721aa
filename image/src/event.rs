//! Events and log lines of a guest. Each has a number, so that a client can continue where the last answer ended, and learns what
//! it has missed.

use crate::session::Task;
use crate::status::{Code, Exit, GpuState, Outcome, Phase, PhaseOutcome, Severity};
use serde::{Deserialize, Serialize};

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Event {
    /// Its number; the first is 1.
    pub sequence: u64,
    /// Time in milliseconds since the kernel started.
    pub at_ms: u64,
    /// The subject of the event.
    pub what: Happening,
}

/// The subject of an [`Event`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum Happening {
    /// A phase has begun or ended.
    Phase {
        /// The phase.
        phase: Phase,
        /// Its outcome.
        outcome: PhaseOutcome,
    },
    /// The state of a GPU has changed.
    Gpu {
        /// Its PCI address.
        bdf: String,
        /// Its new state.
        state: GpuState,
    },
    /// The driver has reported a GPU error.
    Xid {
        /// The GPU's PCI address, as the driver wrote it.
        bdf: String,
        /// NVIDIA's number for the error.
        code: u32,
        /// The driver's log line.
        line: String,
    },
    /// A finding was added.
    Finding {
        /// Its code.
        code: Code,
        /// Its severity.
        severity: Severity,
        /// What failed, what was found and what was expected.
        message: String,
    },
    /// The container's program was started.
    Started {
        /// Its process id.
        pid: u32,
        /// Number of restarts so far.
        restarts: u32,
    },
    /// The container's program has ended.
    Exited(Exit),
    /// The outcome of the boot has changed.
    Outcome(Outcome),
    /// The guest was asked to stop.
    Stop {
        /// Who asked.
        by: StopBy,
        /// Number of the signal that the program receives.
        signal: i32,
        /// Time until it is killed, in milliseconds.
        grace_ms: u64,
    },
    /// The host has begun a session in the container.
    SessionStarted {
        /// Number of the session.
        session: u32,
        /// What it does.
        task: Task,
    },
    /// A session has ended.
    SessionEnded {
        /// Number of the session.
        session: u32,
        /// How its command ended.
        exit: Exit,
    },
}

/// Who asked a guest to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum StopBy {
    /// A request over vsock.
    Host,
    /// Ctrl-Alt-Del, such as Firecracker's SendCtrlAltDel.
    CtrlAltDel,
    /// The power button of the VMM.
    PowerButton,
    /// SIGTERM or SIGINT to guest-init.
    Signal,
}

/// A part of the events.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Events {
    /// The events, in order.
    pub events: Vec<Event>,
    /// The number to continue from.
    pub next: u64,
    /// Number of earlier items that are no longer kept.
    pub lost: u64,
}

/// Source of the requested lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum LogSource {
    /// The kernel log, which includes guest-init's lines.
    Kernel,
    /// The output of the container's program.
    Container,
}

/// A line of a log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLine {
    /// Its number. Numbers in the kernel log may have gaps.
    pub sequence: u64,
    /// Time in milliseconds since the kernel started.
    pub at_ms: u64,
    /// Severity as in syslog, 0 (emergency) to 7 (debug), if the log has one.
    pub level: Option<u8>,
    /// The line, without the newline.
    pub text: String,
}

/// A part of a log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Logs {
    /// The lines, in order.
    pub lines: Vec<LogLine>,
    /// The number to continue from.
    pub next: u64,
    /// Number of earlier lines that are no longer kept.
    pub lost: u64,
}
