//! A guest over a long time (tests/bench/soak): clients of every kind come and go, and PID 1 must use at the end what it used at the
//! beginning.

use clap::Parser;
use host_builder::guest_client::session::{Begun, Stream, begin};
use host_builder::guest_client::{self, Target};
use image::event::LogSource;
use image::session::{Exec, Task};
use image::wire::{Reply, Request, Until};
use rig::disk::FileSystem;
use rig::phantom::Model;
use rig::roots::Suite;
use rig::scene::{boot, guest_that_counts, request, root_disk, target, wait, with_config};
use serde_json::json;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// Writes numbered lines and a file, opens a terminal, prints an error of the driver now and then, and ends: guest-init restarts it.
const PROGRAM: &str = "say() { echo \"$1\" > /proc/driver/nvidia/stub-says; }
    for turn in $(seq 40); do
        echo \"line $turn of $$\"; head -c 300000 /dev/zero > /tmp/file; script -qc true /dev/null < /dev/null > /dev/null
        test $((turn % 10)) != 0 || say 'NVRM: Xid (PCI:0000:01:00): 43, pid=812, name=python3, Ch 00000008'
        sleep 0.5
    done; exit 3";
/// Uses as much memory as there is, until the kernel ends it.
const HUNGRY: &str = "tail /dev/zero";
/// How long nothing happens before the first and the last count.
const QUIET: Duration = Duration::from_secs(15);
/// Growth of PID 1's memory that is no leak: the ring of events, and the kept output.
const ROOM_KIB: u64 = 1024;

/// Arguments.
#[derive(Parser)]
struct Arguments {
    /// How long the clients come and go.
    #[arg(long)]
    minutes: u64,
}

/// What PID 1 uses.
#[derive(Debug, Clone, Copy)]
struct Usage {
    kib: u64,
    descriptors: u64,
    threads: u64,
}

/// What the clients did.
#[derive(Default)]
struct Counts {
    asked: AtomicU64,
    commands: AtomicU64,
    abandoned: AtomicU64,
    refused: AtomicU64,
}

fn main() -> ExitCode {
    let Arguments { minutes } = Arguments::parse();
    let dir = tempfile::tempdir().expect("a temporary directory can be made");
    let config = json!({ "entrypoint": ["/bin/sh", "-c", PROGRAM] });
    let setup = guest_that_counts()
        .disk(&root_disk(Suite::Bookworm, FileSystem::Erofs), "root")
        .gpu(Model::L4)
        .memory_mib(640)
        .cmdline("HAS_GPU=1 nvidia.gpus=1 gpu_initrd.control=exec gpu_initrd.restart=always");
    let mut guest = boot(with_config(setup, dir.path(), &config));
    wait(&guest, Until::Ready);
    let target = target(&guest);
    thread::sleep(QUIET);
    let before = usage(&target);
    println!("at the beginning: {before:?}");

    let (counts, is_over) = (Counts::default(), AtomicBool::new(false));
    let failures = thread::scope(|scope| {
        let (counts, is_over, target) = (&counts, &is_over, &target);
        let clients = [
            scope.spawn(move || ask(target, counts, is_over)),
            scope.spawn(move || follow_events(target, is_over)),
            scope.spawn(move || follow_lines(target, is_over)),
            scope.spawn(move || run_commands(target, counts, is_over)),
            scope.spawn(move || run_commands(target, counts, is_over)),
        ];
        let end = Instant::now() + Duration::from_mins(minutes);
        while Instant::now() < end {
            thread::sleep(end.saturating_duration_since(Instant::now()).min(Duration::from_secs(30)));
            println!("in between: {:?}", usage(target));
        }
        is_over.store(true, Ordering::Relaxed);
        clients.into_iter().filter_map(|client| client.join().expect("no client panics")).collect::<Vec<_>>()
    });
    thread::sleep(QUIET);
    let after = usage(&target);
    println!("at the end: {after:?}");
    let number = |count: &AtomicU64| count.load(Ordering::Relaxed);
    let container = match request(&guest, &Request::Status) {
        Reply::Status(status) => status.container,
        _ => None,
    };
    println!(
        "{} questions, {} commands, {} of them abandoned, {} refused; {} restarts, {} kills for memory",
        number(&counts.asked),
        number(&counts.commands),
        number(&counts.abandoned),
        number(&counts.refused),
        container.as_ref().map_or(0, |container| container.restarts),
        container.as_ref().map_or(0, |container| container.oom_kills),
    );
    guest.kill();
    let failures = judge(before, after, failures);
    for failure in &failures {
        println!("FAILED: {failure}");
    }
    if failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn judge(before: Usage, after: Usage, mut failures: Vec<String>) -> Vec<String> {
    if after.kib > before.kib + ROOM_KIB {
        failures.push(format!("memory grew from {} to {} KiB", before.kib, after.kib));
    }
    // The program may be between two runs, which opens and closes a few.
    if after.descriptors > before.descriptors + 4 {
        failures.push(format!("descriptors grew from {} to {}", before.descriptors, after.descriptors));
    }
    if after.threads > before.threads + 2 {
        failures.push(format!("threads grew from {} to {}", before.threads, after.threads));
    }
    failures
}

fn deadline() -> Instant {
    Instant::now() + Duration::from_secs(30)
}

/// What guest-init said last that it uses.
fn usage(target: &Target) -> Usage {
    let mut found = None;
    let mut from = 0;
    loop {
        let request = Request::Logs { source: LogSource::Kernel, from, timeout_ms: 0 };
        let Ok(Reply::Logs(logs)) = guest_client::ask(target, &request, deadline(), deadline()) else {
            break;
        };
        let mut lines = logs
            .lines
            .iter()
            .filter_map(|line| line.text.split_once("in use: ").map(|(_, rest)| rest.to_owned()));
        found = lines.next_back().or(found);
        if logs.lines.is_empty() {
            break;
        }
        from = logs.next;
    }
    let text = found.expect("guest-init says what it uses");
    let mut numbers = text.split(|c: char| !c.is_ascii_digit()).filter_map(|word| word.parse().ok());
    let mut next = || numbers.next().expect("there are three numbers");
    Usage { kib: next(), descriptors: next(), threads: next() }
}

/// Asks for the status again and again.
fn ask(target: &Target, counts: &Counts, is_over: &AtomicBool) -> Option<String> {
    let mut last = 0;
    while !is_over.load(Ordering::Relaxed) {
        match guest_client::status_by(target, deadline()) {
            Ok(status) if status.uptime_ms < last => return Some("the clock went back".into()),
            Ok(status) => last = status.uptime_ms,
            Err(error) => return Some(format!("status: {error}")),
        }
        counts.asked.fetch_add(1, Ordering::Relaxed);
        thread::sleep(Duration::from_millis(100));
    }
    None
}

/// Follows the events: numbers without a gap that is not said, times that do not go back.
fn follow_events(target: &Target, is_over: &AtomicBool) -> Option<String> {
    let (mut from, mut last) = (0, (0, 0));
    while !is_over.load(Ordering::Relaxed) {
        let request = Request::Events { from, timeout_ms: 1000 };
        let events = match guest_client::ask(target, &request, deadline(), deadline()) {
            Ok(Reply::Events(events)) => events,
            Ok(_) => return Some("events: another answer".into()),
            Err(error) => return Some(format!("events: {error}")),
        };
        let mut expected = from.max(1) + events.lost;
        for event in &events.events {
            if event.sequence != expected {
                return Some(format!("event {expected} is missing: found {}", event.sequence));
            }
            if event.at_ms < last.1 {
                return Some(format!("event {} is older than event {}", event.sequence, last.0));
            }
            (expected, last) = (expected + 1, (event.sequence, event.at_ms));
        }
        from = events.next;
    }
    None
}

/// Follows the program's output in the same way.
fn follow_lines(target: &Target, is_over: &AtomicBool) -> Option<String> {
    let mut from = 0;
    while !is_over.load(Ordering::Relaxed) {
        let request = Request::Logs { source: LogSource::Container, from, timeout_ms: 1000 };
        let logs = match guest_client::ask(target, &request, deadline(), deadline()) {
            Ok(Reply::Logs(logs)) => logs,
            Ok(_) => return Some("logs: another answer".into()),
            Err(error) => return Some(format!("logs: {error}")),
        };
        for (expected, line) in (from.max(1) + logs.lost..).zip(&logs.lines) {
            if line.sequence != expected {
                return Some(format!("line {expected} is missing: found {}", line.sequence));
            }
        }
        from = logs.next;
    }
    None
}

/// Runs commands of all kinds: short ones, with a terminal, with much output, hungry ones, and some that are abandoned.
fn run_commands(target: &Target, counts: &Counts, is_over: &AtomicBool) -> Option<String> {
    let mut turn = 0_u32;
    while !is_over.load(Ordering::Relaxed) {
        turn += 1;
        let (script, terminal, is_abandoned) = match turn % 6 {
            0 => ("stty size; echo done", Some((24, 80)), false),
            1 => ("head -c 1000000 /dev/zero", None, false),
            2 => ("sleep 1000", None, true),
            3 if turn % 60 == 3 => (HUNGRY, None, false),
            4 => ("sleep 1000 & echo left", Some((24, 80)), true),
            _ => ("echo done", None, false),
        };
        let task = Task::Command(["sh", "-c", script].map(str::to_owned).into());
        let exec = Exec { task, user: None, env: Vec::new(), workdir: None, terminal };
        counts.commands.fetch_add(1, Ordering::Relaxed);
        match begin(target, &exec) {
            Ok(Begun::Session(session)) if is_abandoned => {
                counts.abandoned.fetch_add(1, Ordering::Relaxed);
                drop(session);
            }
            Ok(Begun::Session(session)) => {
                let ended = session.run(|stream, _| match stream {
                    Stream::Output | Stream::Errors => Ok(()),
                });
                if let Err(error) = ended {
                    return Some(format!("{script}: {error}"));
                }
            }
            // The program is being restarted, or many commands end at the same time.
            Ok(Begun::NotStarted { .. }) | Err(guest_client::QueryError::Refused { .. }) => {
                counts.refused.fetch_add(1, Ordering::Relaxed);
            }
            Err(error) => return Some(format!("{script}: {error}")),
        }
        thread::sleep(Duration::from_millis(200));
    }
    None
}
