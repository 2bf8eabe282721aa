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

With several targets, or with a pattern, there is one row for each guest. With --json each guest is one line, an object with
`schema`, `target`, and `status` or `error`; the lines of several guests stand in the order in which they answered.
Up to 512 guests are asked at a time. A terminal shows what is there after a second, and the rest as it comes.

Exit codes (of several guests the highest):
  0  ready; with --wait exited: the program has exited with 0; with --wait PHASE: the phase is over, and went well
  1  not ready (yet), or failed
  2  could not be asked, and the message says which: no socket, not listening (yet),
     timed out, not our protocol, other version, a reply that is malformed or too large
With --watch, Ctrl-C ends it with 0, and a guest that has gone with what its last status was; several end it when every one
that ever answered has not answered three times, and the others have not for --timeout.";

/// Arguments of `status`.
#[derive(Debug, Args)]
pub struct Status {
    /// Guests: unix:PATH[:PORT] (hybrid socket of Firecracker, Cloud Hypervisor and `boot`; * ? [] in PATH stand for
    /// many) or vsock:CID[:PORT]. Default port 1042.
    #[arg(value_name = "TARGET", required_unless_present = "schema")]
    pub targets: Vec<Guests>,
    /// Wait until this is known, good or bad: the boot is ready, the program has exited, or a phase is over (running: has
    /// begun).
    #[arg(long, value_name = "WHAT", value_parser = awaited())]
    pub wait: Option<Until>,
    /// Longest time for the answer, or the answers of all guests, such as 60s, 1500ms or 2m; with --watch: for each
    /// answer [default: 60s with --wait, else 10s].
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub timeout: Option<Duration>,
    /// Print everything as JSON on standard output, one line for each guest.
    #[arg(long)]
    pub json: bool,
    /// Show it again at each change and each second, until the guest has gone. With --json: a line at each change; of
    /// several guests also when one answers no more.
    #[arg(long, conflicts_with = "wait")]
    pub watch: bool,
    /// Draw the boot's time line as an SVG picture, too; with one target.
    #[arg(long, value_name = "FILE.svg", conflicts_with = "watch")]
    pub plot: Option<PathBuf>,
    /// Print the JSON Schema of what --json prints, and ask nobody.
    #[arg(long, conflicts_with_all = ["targets", "wait", "watch", "json", "timeout"])]
    pub schema: bool,
}

/// Every phase by its name; `exited` is the program's end, and `ready` stands before them.
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
