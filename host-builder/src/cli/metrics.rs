//! `metrics`: metrics of guests for Prometheus.

use crate::cli::arguments::duration;
use crate::common::error::Result;
use crate::common::interrupt;
use crate::common::ui;
use crate::common::ui::print;
use crate::guest_client::Guests;
use crate::guest_client::expand;
use crate::guest_client::metrics::{Collector, serve};
use clap::Args;
use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

pub(crate) const METRICS_HELP: &str = "\
Examples:
  host-builder metrics vsock:5 > /var/lib/node_exporter/gpu-guests.prom
  host-builder metrics --listen 127.0.0.1:9400 'unix:/run/vms/*/vsock.sock'

With --listen, patterns are expanded again for each scrape, so new guests appear. For a guest that cannot be queried, or
does not answer within --timeout, only gpu_initrd_up 0 is reported.

Exit codes: 0 success, or ended by Ctrl-C; 1 printed, but a guest could not be queried; 2 usage error, no guest matches, or
could not listen.";

/// Arguments of `metrics`.
#[derive(Debug, Args)]
pub struct Metrics {
    /// Guests: unix:PATH[:PORT] (* ? [] in PATH are wildcards) or vsock:CID[:PORT]. Default port
    /// 1042.
    #[arg(value_name = "TARGET", required = true)]
    pub targets: Vec<Guests>,
    /// Serve GET /metrics over HTTP on this address, such as 127.0.0.1:9400 or [::]:9400; a port
    /// alone means 127.0.0.1.
    #[arg(long, value_name = "ADDR")]
    pub listen: Option<String>,
    /// Longest time for the answers of all guests together, such as 5s or 1500ms. With --listen
    /// this is the time of one scrape; keep it below the scraper's own timeout (Prometheus: 10s).
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "5s")]
    pub timeout: Duration,
}

/// Longest age of a page that is served again: several scrapers cost a guest no more than one.
const FRESH: Duration = Duration::from_secs(1);

/// Runs the command.
pub fn run(args: &Metrics) -> Result<ExitCode> {
    if let Some(address) = &args.listen {
        return listen(args, address);
    }
    interrupt::makes_nothing();
    let targets = expand(&args.targets).required()?;
    let scrape = Collector::default().scrape(&targets, args.timeout);
    print(&scrape.text);
    Ok(ExitCode::from(u8::from(scrape.down > 0)))
}

fn listen(args: &Metrics, address: &str) -> Result<ExitCode> {
    let listener = serve::bind(address)?;
    interrupt::is_the_end();
    if let Ok(address) = listener.local_addr() {
        ui::say(&format!("serving metrics at http://{address}/metrics"));
    }
    let (targets, timeout) = (args.targets.clone(), args.timeout);
    let last: Mutex<(Collector, Option<(Instant, String)>)> = Mutex::default();
    serve::serve(&listener, move || {
        let mut last = last.lock().unwrap_or_else(PoisonError::into_inner);
        let (collector, page) = &mut *last;
        if let Some((time, text)) = page
            && time.elapsed() < FRESH
        {
            return text.clone();
        }
        // Guests come and go: no match is not an error here.
        let text = collector.scrape(&expand(&targets).targets, timeout).text;
        *page = Some((Instant::now(), text.clone()));
        text
    })
}
