//! How a guest ended, read from its console, because a guest need not have vsock.
//!
//! guest-init's last line states it (`powering off: the container ended: exit code 0; exit status
//! 0`); where guest-init cannot, the kernel's own lines do. A program in the guest can print such
//! lines, too, but it gains nothing that it could not have returned.

use serde::Serialize;
use std::fmt;

/// Exit code for a guest that could not be started.
pub const NOT_STARTED: u8 = 125;

/// How a guest ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "outcome", rename_all = "kebab-case")]
pub enum Ending {
    /// The program ran and ended.
    Exited {
        /// As in a shell: its exit code, or 128 plus the number of the signal that killed it.
        exit_status: u8,
        /// How it ended, in guest-init's words.
        reason: String,
    },
    /// The container, or an init system in it, powered the guest off.
    PoweredOff,
    /// The guest was stopped before its program started.
    Stopped,
    /// The boot ended without a container.
    BootFailed {
        /// Why, in guest-init's words.
        reason: String,
    },
    /// The guest's kernel panicked.
    Panicked {
        /// The kernel's line.
        reason: String,
    },
    /// The guest ended without a reason on its console: QEMU failed, or was killed.
    NoWord {
        /// How QEMU ended.
        reason: String,
    },
    /// `--timeout` expired.
    TimedOut {
        /// Seconds.
        after: u64,
    },
    /// The user ended it from this terminal.
    Interrupted,
}

impl Ending {
    /// The exit code of `boot`.
    pub fn code(&self) -> u8 {
        match self {
            Self::Exited { exit_status, .. } => *exit_status,
            Self::PoweredOff => 0,
            Self::Stopped => 143,
            Self::BootFailed { .. } => 250,
            Self::Panicked { .. } => 251,
            Self::NoWord { .. } => 252,
            Self::TimedOut { .. } => 253,
            Self::Interrupted => 254,
        }
    }
}

impl fmt::Display for Ending {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exited { reason, .. } => write!(out, "the program ended: {reason}"),
            Self::PoweredOff => out.write_str("the container powered the guest off"),
            Self::Stopped => out.write_str(STOPPED),
            Self::BootFailed { reason } => write!(out, "the boot failed: {reason}"),
            Self::Panicked { reason } => write!(out, "the guest's kernel panicked: {reason}"),
            Self::NoWord { reason } => write!(out, "the guest ended without a reason: {reason}"),
            Self::TimedOut { after } => write!(out, "the guest was ended after {after} s (--timeout)"),
            Self::Interrupted => out.write_str("the guest was ended from this terminal"),
        }
    }
}

/// Words of guest-init's last line, and what they are followed by.
const LAST: [&str; 3] = ["powering off: ", "rebooting: ", "holding: "];
const STATUS: &str = "; exit status ";
const PROGRAM: &str = "the container ended: ";
const STOPPED: &str = "the guest was stopped before its program started";
const BOOT: &str = "the boot failed: ";
const PANIC: &str = "Kernel panic - not syncing: ";
/// The kernel's own last lines.
const ENDS: [&str; 3] = ["reboot: Power down", "reboot: Restarting system", "reboot: System halted"];

/// The ending that a line of the console states, if any. A later line takes precedence.
pub fn told(line: &str) -> Option<Ending> {
    let text = kernel_line(line)?;
    if let Some(reason) = text.strip_prefix(PANIC) {
        return Some(Ending::Panicked { reason: reason.to_owned() });
    }
    if ENDS.iter().any(|end| text.starts_with(end)) {
        return Some(Ending::PoweredOff);
    }
    let text = text.strip_prefix("gpu-initrd: ")?;
    let rest = LAST.iter().find_map(|word| text.strip_prefix(word))?;
    let Some((reason, status)) = rest.rsplit_once(STATUS) else {
        // The kernel cuts a long line.
        return rest.strip_prefix(BOOT).map(|reason| Ending::BootFailed { reason: reason.to_owned() });
    };
    if let Some(reason) = reason.strip_prefix(PROGRAM) {
        return Some(Ending::Exited { exit_status: status.parse().ok()?, reason: reason.to_owned() });
    }
    if reason == STOPPED {
        return Some(Ending::Stopped);
    }
    reason.strip_prefix(BOOT).or(Some(reason)).map(|reason| Ending::BootFailed { reason: reason.to_owned() })
}

/// The text after the kernel's timestamp: `[    1.234567] text`.
pub fn kernel_line(line: &str) -> Option<&str> {
    let (time, text) = line.strip_prefix('[')?.split_once("] ")?;
    let (seconds, rest) = time.trim_start().split_once('.')?;
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    (digits(seconds) && digits(rest)).then_some(text)
}

/// The later of two endings. That the machine powers off does not say why.
pub fn later(known: Option<Ending>, told: Ending) -> Ending {
    match (known, told) {
        (Some(known), Ending::PoweredOff) => known,
        (_, told) => told,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(lines: &[&str]) -> Option<(u8, String)> {
        let ending =
            lines.iter().filter_map(|line| told(line)).fold(None, |known, told| Some(later(known, told)));
        ending.map(|ending| (ending.code(), ending.to_string()))
    }

    #[test]
    fn the_last_line_is_read_as_guest_init_writes_it() {
        let line = "[    9.000001] gpu-initrd: powering off: the container ended: exit code 3; exit status 3";
        assert_eq!(of(&[line]), Some((3, "the program ended: exit code 3".into())));
        let line = "[ 1009.1] gpu-initrd: rebooting: the container ended: killed by SIGKILL, out of memory; exit status 137";
        assert_eq!(of(&[line]), Some((137, "the program ended: killed by SIGKILL, out of memory".into())));
        let line =
            "[    9.1] gpu-initrd: powering off: the boot failed: no-gpu: there is none; exit status 1";
        assert_eq!(of(&[line]), Some((250, "the boot failed: no-gpu: there is none".into())));
        let line = "[    9.1] gpu-initrd: holding: the boot failed; exit status 1";
        assert_eq!(of(&[line]).unwrap().0, 250);
    }

    #[test]
    fn the_kernels_own_end_counts_where_nothing_else_was_said() {
        let (off, ended) = (
            "[    9.9] reboot: Power down",
            "[    9.1] gpu-initrd: powering off: the container ended: exit code 0; exit status 0",
        );
        assert_eq!(of(&[off]), Some((0, "the container powered the guest off".into())));
        assert_eq!(of(&[ended, off]).unwrap().1, "the program ended: exit code 0");
        let panic = "[    0.9] Kernel panic - not syncing: System is deadlocked on memory";
        assert_eq!(
            of(&[panic]),
            Some((251, "the guest's kernel panicked: System is deadlocked on memory".into()))
        );
        assert_eq!(of(&[ended, panic]).unwrap().0, 251);
    }

    #[test]
    fn what_is_no_line_of_the_kernel_says_nothing() {
        for line in [
            "gpu-initrd: powering off: the container ended: exit code 0; exit status 0",
            "[x] gpu-initrd: powering off: the container ended: exit code 0; exit status 0",
            "[1.] reboot: Power down",
            "reboot: Power down",
            "[    1.2] gpu-initrd: config done after 3 ms",
            "[    1.2] gpu-initrd: powering off: the container ended: exit code 9; exit status 999",
            "",
        ] {
            assert_eq!(told(line), None, "{line}");
        }
    }
}
