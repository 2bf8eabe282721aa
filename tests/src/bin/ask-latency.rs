//! Asks a guest for its status again and again, and prints the latencies: `ask-latency TARGET
//! COUNT`. After each request it opens a connection without a request, which measures the transport
//! alone.

use host_builder::guest_client;
use host_builder::guest_client::Target;
use rig::vsock;
use std::process::ExitCode;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(30);

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let parsed = match &args[..] {
        [target, count] => target.parse::<Target>().ok().zip(count.parse::<usize>().ok()),
        _ => None,
    };
    let Some((target @ Target::Unix { .. }, count @ 1..)) = parsed else {
        eprintln!("usage: ask-latency unix:PATH[:PORT] COUNT");
        return ExitCode::from(2);
    };
    match measure(&target, count) {
        Ok((asked, connected)) => {
            // Microseconds: median and 99th percentile of a query, then of a connection.
            println!("{} {} {} {}", at(&asked, 50), at(&asked, 99), at(&connected, 50), at(&connected, 99));
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{target}: {error}");
            ExitCode::from(2)
        }
    }
}

type Times = Vec<u128>;

fn measure(target: &Target, count: usize) -> Result<(Times, Times), Box<dyn std::error::Error>> {
    let Target::Unix { path, port } = target else { return Err("expected unix:PATH".into()) };
    let (mut asked, mut connected) = (Times::new(), Times::new());
    for _ in 0..count {
        let start = Instant::now();
        guest_client::status(target, PATIENCE)?;
        asked.push(start.elapsed().as_micros());
        let start = Instant::now();
        let stream = vsock::try_connect(path, *port)?;
        connected.push(start.elapsed().as_micros());
        drop(stream);
        // As often as a monitor asks, not as fast as possible.
        std::thread::sleep(Duration::from_millis(20));
    }
    asked.sort_unstable();
    connected.sort_unstable();
    Ok((asked, connected))
}

fn at(sorted: &Times, percent: usize) -> u128 {
    sorted[(sorted.len() - 1) * percent / 100]
}
