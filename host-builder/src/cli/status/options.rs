//! The command line of `status`.

use crate::cli::arguments::duration;
use crate::guest_client::Guests;
use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use image::status::Phase;
use image::wire::Until;
use std::path::PathBuf;
use std::time::Duration;

pub(crate) const STATUS_HELP: &str = "\
Examples:
  host-builder status unix:out/vsock.sock --wait ready --timeout 60s
  host-builder status vsock:5 --watch
  host-builder status 'unix:/run/vms/*/vsock.sock'
  host-builder status vsock:5 --json | jq .status.findings

With several targets, or with a pattern, the output has one row per guest. With --json it has one line per guest: an object
with `schema`, `target`, and `status` or `error`; the lines are in the order of the answers. Up to 512 guests are queried
at a time. A terminal shows the first rows after a second and adds the others as they arrive.

Exit codes (with several guests, the highest one):
0  ready; with --wait exited: the program exited with 0; with --wait PHASE: the phase is done
1  not ready (yet), or failed
2  the guest could not be queried, and the message says why: no socket, not listening (yet),
timed out, not our protocol, other version, a reply that is malformed or too large
With --watch, Ctrl-C exits with 0. When the guest is gone, the exit code is that of its last status. With several guests,
the command ends when each guest that ever answered has missed three answers, and the others have not answered within
--timeout.";

/// Arguments of `status`.
#[derive(Debug, Args)]
pub struct Status {
    /// Guests: unix:PATH[:PORT] (hybrid socket of Firecracker, Cloud Hypervisor and `boot`; * ? []
    /// in PATH are wildcards) or vsock:CID[:PORT]. Default port 1042.
    #[arg(value_name = "TARGET", required_unless_present = "schema")]
    pub targets: Vec<Guests>,
    /// Wait for this, or until it has failed: the boot is ready, the program has exited, or a phase
    /// is done (running: has begun).
    #[arg(long, value_name = "WHAT", value_parser = awaited())]
    pub wait: Option<Until>,
    /// Longest time for the answer, or for the answers of all guests, such as 60s, 1500ms or 2m;
    /// with --watch: for each answer [default: 60s with --wait, else 10s].
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub timeout: Option<Duration>,
    /// Print the full status as JSON to standard output, one line per guest.
    #[arg(long)]
    pub json: bool,
    /// Update at each change and each second until the guest is gone. With --json: print a line at
    /// each change; with several guests also when one no longer answers.
    #[arg(long, conflicts_with = "wait")]
    pub watch: bool,
    /// Also draw the boot timeline as an SVG file; with one target.
    #[arg(long, value_name = "FILE.svg", conflicts_with = "watch")]
    pub plot: Option<PathBuf>,
    /// Print the JSON Schema of the output of --json, then exit.
    #[arg(long, conflicts_with_all = ["targets", "wait", "watch", "json", "timeout"])]
    pub schema: bool,
}

/// Every phase by its name, after `ready`; `exited` is the end of the program.
fn awaited() -> impl TypedValueParser<Value = Until> {
    PossibleValuesParser::new(AWAITED.iter().map(|(word, _)| *word)).map(|text| {
        let found = AWAITED.iter().find(|(word, _)| *word == text);
        found.expect("clap has checked that it is one of them").1
    })
}

const AWAITED: &[(&str, Until)] = &[
    ("ready", Until::Ready),
    ("exited", Until::Exited),
    ("start", Until::Phase(Phase::Start)),
    ("modules", Until::Phase(Phase::Modules)),
    ("config", Until::Phase(Phase::Config)),
    ("payload", Until::Phase(Phase::Payload)),
    ("gpu", Until::Phase(Phase::Gpu)),
    ("root", Until::Phase(Phase::Root)),
    ("inject", Until::Phase(Phase::Inject)),
    ("cache", Until::Phase(Phase::Cache)),
    ("exec", Until::Phase(Phase::Exec)),
    ("running", Until::Phase(Phase::Running)),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phases_are_waited_for_by_their_names() {
        for (word, until) in AWAITED {
            if let Until::Phase(phase) = until {
                assert_eq!(*word, image::text::name(phase));
            }
        }
    }
}
