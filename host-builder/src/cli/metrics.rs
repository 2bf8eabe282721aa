//! The command line of `metrics`.

use super::time::duration;
use crate::query::Guests;
use clap::Args;
use std::time::Duration;

pub(super) const METRICS_HELP: &str = "\
Examples:
  host-builder metrics vsock:5 > /var/lib/node_exporter/gpu-guests.prom
  host-builder metrics --listen 127.0.0.1:9400 'unix:/run/vms/*/vsock.sock'

With --listen, patterns are looked up anew for each scrape: guests come and go. A guest that cannot be asked, or
does not answer within --timeout, has gpu_initrd_up 0, and nothing else.

Exit codes: 0 printed, or ended by Ctrl-C; 1 printed, and a guest could not be asked; 2 usage, no guest matches, or could not
listen.";

/// Arguments of `metrics`.
#[derive(Debug, Args)]
pub struct Metrics {
    /// Guests: unix:PATH[:PORT] (* ? [] in PATH stand for many) or vsock:CID[:PORT]. Default port 1042.
    #[arg(value_name = "TARGET", required = true)]
    pub targets: Vec<Guests>,
    /// Answer GET /metrics over HTTP here, such as 127.0.0.1:9400, [::]:9400, or a port (of 127.0.0.1).
    #[arg(long, value_name = "ADDR")]
    pub listen: Option<String>,
    /// Longest time for the answers of all guests together, such as 5s or 1500ms; with --listen: of one scrape, which
    /// should be less than the scraper's own (of Prometheus: 10s).
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "5s")]
    pub timeout: Duration,
}
