//! `metrics`: what guests say, for Prometheus.

use crate::cli::Metrics as Arguments;
use crate::error::Result;
use crate::interrupt;
use crate::metrics::{Collector, serve};
use crate::query::expand;
use crate::ui::{self, print};
use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A page that is younger is given to whoever asks meanwhile: many scrapers cost a guest no more than one.
const FRESH: Duration = Duration::from_secs(1);

/// Runs the command.
pub fn run(args: &Arguments) -> Result<ExitCode> {
    if let Some(address) = &args.listen {
        return listen(args, address);
    }
    interrupt::makes_nothing();
    let targets = expand(&args.targets).required()?;
    let scrape = Collector::default().scrape(&targets, args.timeout);
    print(&scrape.text);
    Ok(ExitCode::from(u8::from(scrape.down > 0)))
}

fn listen(args: &Arguments, address: &str) -> Result<ExitCode> {
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
