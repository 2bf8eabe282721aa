//! What a guest tells one after the other: events and lines of its logs. Each has a number, so that whoever asks again goes on
//! where the last answer ended, and learns what it has missed.

use crate::status::{Code, Exit, GpuState, Outcome, Phase, PhaseOutcome, Severity};
use serde::{Deserialize, Serialize};

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Event {
    /// Its number; the first is 1.
    pub sequence: u64,
    /// When, milliseconds since the kernel started.
    pub at_ms: u64,
    /// What.
    pub what: Happening,
}

/// What an [`Event`] is about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum Happening {
    /// A phase has begun, or is over.
    Phase {
        /// Which.
        phase: Phase,
        /// How it goes.
        outcome: PhaseOutcome,
    },
    /// A GPU has another state.
    Gpu {
        /// Its PCI address.
        bdf: String,
        /// Its state now.
        state: GpuState,
    },
    /// The driver has reported an error of a GPU.
    Xid {
        /// The GPU's PCI address, as the driver wrote it.
        bdf: String,
        /// NVIDIA's number of the error.
        code: u32,
        /// The driver's line.
        line: String,
    },
    /// Something is wrong.
    Finding {
        /// Its name.
        code: Code,
        /// How bad it is.
        severity: Severity,
        /// What was expected and what was found.
        message: String,
    },
    /// The container's program was started.
    Started {
        /// Its process id.
        pid: u32,
        /// How often it had been started before.
        restarts: u32,
    },
    /// The container's program has ended.
    Exited(Exit),
    /// The boot has an outcome.
    Outcome(Outcome),
}

/// A part of the events.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Events {
    /// In their order.
    pub events: Vec<Event>,
    /// The number to ask from the next time.
    pub next: u64,
    /// How many came before these and are kept no more.
    pub lost: u64,
}

/// Whose lines are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum LogSource {
    /// The kernel's log, with guest-init's own lines in it.
    Kernel,
    /// What the container's program wrote.
    Container,
}

/// A line of a log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLine {
    /// Its number. The kernel's may skip some.
    pub sequence: u64,
    /// When, milliseconds since the kernel started.
    pub at_ms: u64,
    /// Severity as in syslog, 0 (emergency) to 7 (debug), where the log has one.
    pub level: Option<u8>,
    /// The line, without its end.
    pub text: String,
}

/// A part of a log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Logs {
    /// In their order.
    pub lines: Vec<LogLine>,
    /// The number to ask from the next time.
    pub next: u64,
    /// How many lines came before these and are kept no more.
    pub lost: u64,
}
