//! How a program ended, whether it succeeded, and how this is printed.

use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};
use std::fmt;

/// How a program ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Exit {
    /// Exit code, if it exited.
    pub code: Option<i32>,
    /// Signal, if one killed it.
    pub signal: Option<i32>,
    /// Whether it failed after the kernel's out-of-memory killer ended it or one of its processes.
    pub oom: bool,
}

impl Exit {
    /// Returns whether the program succeeded. No other code decides this.
    pub fn is_success(self) -> bool {
        self.code == Some(0) && !self.oom
    }

    /// Returns the status as in a shell's `$?`: the exit code, or 128 plus the signal; 1 if neither is known.
    pub fn shell_status(self) -> i32 {
        match (self.code, self.signal) {
            (Some(code), _) => code,
            (None, Some(signal)) => signal.saturating_add(128),
            (None, None) => 1,
        }
    }

    /// Returns a short form for tables: `exited 1`, `killed SIGKILL`, `killed (out of memory)`.
    pub fn brief(self) -> String {
        match (self.code, self.signal, self.oom) {
            (Some(code), _, false) => format!("exited {code}"),
            (Some(code), _, true) => format!("exited {code} (out of memory)"),
            (None, _, true) => "killed (out of memory)".into(),
            (None, Some(number), false) => format!("killed {}", signal_name(number)),
            (None, None, false) => "ended".into(),
        }
    }
}

/// `exit code 1`, `killed by SIGKILL, out of memory`.
impl fmt::Display for Exit {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.code, self.signal) {
            (Some(code), _) => write!(out, "exit code {code}")?,
            (None, Some(number)) => write!(out, "killed by {}", signal_name(number))?,
            (None, None) => out.write_str("unknown exit status")?,
        }
        out.write_str(if self.oom { ", out of memory" } else { "" })
    }
}

/// Returns the name of a signal, `SIGTERM`, or `signal N`.
pub fn signal_name(number: i32) -> String {
    Signal::try_from(number).map_or_else(|_| format!("signal {number}"), |signal| signal.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_in_words_and_as_a_shell_has_it() {
        let exit = |code, signal, oom| Exit { code, signal, oom };
        for (exit, is_success, status, text, brief) in [
            (exit(Some(0), None, false), true, 0, "exit code 0", "exited 0"),
            (exit(Some(0), None, true), false, 0, "exit code 0, out of memory", "exited 0 (out of memory)"),
            (exit(Some(3), None, false), false, 3, "exit code 3", "exited 3"),
            (exit(None, Some(9), false), false, 137, "killed by SIGKILL", "killed SIGKILL"),
            (
                exit(None, Some(9), true),
                false,
                137,
                "killed by SIGKILL, out of memory",
                "killed (out of memory)",
            ),
            (exit(None, Some(77), false), false, 205, "killed by signal 77", "killed signal 77"),
            (exit(None, None, false), false, 1, "unknown exit status", "ended"),
            (
                exit(None, Some(i32::MAX), false),
                false,
                i32::MAX,
                "killed by signal 2147483647",
                "killed signal 2147483647",
            ),
        ] {
            assert_eq!((exit.is_success(), exit.shell_status()), (is_success, status));
            assert_eq!((exit.to_string().as_str(), exit.brief().as_str()), (text, brief));
        }
    }
}
