//! The command line of `status`.

use crate::query::Target;
use clap::{Args, ValueEnum};
use std::time::Duration;

pub(super) const STATUS_CODES: &str = "\
Exit codes:
  0  ready; with --wait exited: the program has exited with 0
  1  not ready (yet), or failed
  2  could not be asked, and the message says which: no socket, not listening (yet),
     timed out, not our protocol, other version, a reply that is malformed or too large";

/// Arguments of `status`.
#[derive(Debug, Args)]
pub struct Status {
    /// The guest: unix:PATH[:PORT] (hybrid socket of Firecracker, Cloud Hypervisor and `boot`) or vsock:CID[:PORT].
    /// Default port 1042.
    pub target: Target,
    /// Wait until the boot is ready or has failed, or until the program has exited.
    #[arg(long, value_name = "WHAT")]
    pub wait: Option<Awaited>,
    /// Longest time for the answer, such as 60s, 1500ms or 2m [default: 60s with --wait, else 10s].
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub timeout: Option<Duration>,
    /// Print the whole status as JSON on standard output.
    #[arg(long)]
    pub json: bool,
}

/// What `status --wait` waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Awaited {
    /// The boot has an outcome, good or bad.
    Ready,
    /// The container's program has ended.
    Exited,
}

/// `90`, `90s`, `1500ms`, `2m`.
fn duration(text: &str) -> Result<Duration, String> {
    let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let number = text[..split].parse::<u32>().ok().filter(|number| *number > 0);
    let unit = match &text[split..] {
        "ms" => Some(1),
        "" | "s" => Some(1000),
        "m" => Some(60_000),
        _ => None,
    };
    match (number, unit) {
        (Some(number), Some(unit)) => Ok(Duration::from_millis(u64::from(number) * unit)),
        _ => Err("expected a time above 0 such as 60s, 1500ms or 2m".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_or_refused() {
        assert_eq!(duration("90"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("1500ms"), Ok(Duration::from_millis(1500)));
        assert_eq!(duration("2m"), Ok(Duration::from_mins(2)));
        for text in ["", "0", "0s", "s", "-1", "2h", "1.5s", "99999999999"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }
}
