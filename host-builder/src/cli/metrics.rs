//! `metrics`: what guests say, for Prometheus.

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

/// A page that is younger is given to whoever asks meanwhile: many scrapers cost a guest no more than one.
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
        ui::say(&format!("metrics are at http://{address}/metrics"));
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
        // Guests come and go: no match is no error here.
        let text = collector.scrape(&expand(&targets).targets, timeout).text;
        *page = Some((Instant::now(), text.clone()));
        text
    })
}
