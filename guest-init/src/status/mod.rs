//! The status of the guest: the board that the boot writes, its changes as events, and the limits of both.

mod board;
pub(crate) mod events;
mod followers;
pub mod limits;
pub mod ring;

pub use self::board::Board;
pub use self::followers::Follower;

use crate::kernel::sysinfo::uptime_ms;
use image::status::{Code, Container, Finding, Severity};
use limits::clip_lines;

/// Returns the status of a container that was just started.
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

/// Creates a finding of severity error.
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

/// Creates a finding of severity warning.
pub fn warning(code: Code, message: impl Into<String>, hint: impl Into<String>) -> Finding {
    Finding { severity: Severity::Warning, ..error(code, message, hint) }
}

/// Adds evidence to a finding.
pub fn with_evidence(finding: Finding, evidence: Vec<String>) -> Finding {
    Finding { evidence, ..finding }
}
