//! The command line of `events`.

use super::time::duration;
use crate::query::{Address, Target};
use clap::Args;
use std::time::Duration;

pub(super) const EVENTS_HELP: &str = "\
Examples:
  host-builder events vsock:5
  host-builder events unix:out/vsock.sock --no-follow | jq .event
  host-builder events --listen vsock:9000                      # gpu_initrd.notify=vsock:2:9000
  host-builder events --listen unix:/run/vms/1/vsock.sock:9000 # the same behind a hybrid socket

A terminal gets text. Anything else gets lines of JSON, as a terminal does with --json: each is an object with `schema`,
`target`, and `event` or `lost`, as --schema describes.

With --listen up to 1024 connections are open at a time: 4 of one guest, and no more than 256 beyond the first one of each, so
that every guest finds a place. Who is turned away is warned of on standard error, once a minute.

Exit codes:
  0  the guest has gone after its boot had an outcome, or its program had exited; --no-follow: printed; Ctrl-C
  1  the guest has gone before that
  2  could not be asked, and the message says why; --listen: could not listen";

/// Arguments of `events`.
#[derive(Debug, Args)]
pub struct Events {
    /// The guest: unix:PATH[:PORT] or vsock:CID[:PORT]. Default port 1042.
    #[arg(value_name = "TARGET", required_unless_present_any = ["listen", "schema"])]
    pub target: Option<Target>,
    /// Wait for more, until the guest has gone; this is the default.
    #[arg(long)]
    pub follow: bool,
    /// Print what has happened so far, and end.
    #[arg(long, conflicts_with = "follow")]
    pub no_follow: bool,
    /// Let guests connect to this machine and push their events: vsock:PORT, or unix:PATH:PORT behind a hybrid socket
    /// (listens on PATH_PORT). May be given more than once.
    #[arg(long, value_name = "ADDR", conflicts_with_all = ["target", "follow", "no_follow", "timeout"])]
    pub listen: Vec<Address>,
    /// Wait for a guest that does not answer yet.
    #[arg(long, conflicts_with = "listen")]
    pub wait: bool,
    /// Longest time until the guest answers, such as 60s, 1500ms or 2m [default: 60s with --wait, else 10s].
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub timeout: Option<Duration>,
    /// Print each event as a line of JSON on a terminal, too.
    #[arg(long)]
    pub json: bool,
    /// Print the JSON Schema of a line of --json, and ask nobody.
    #[arg(long, exclusive = true)]
    pub schema: bool,
}
