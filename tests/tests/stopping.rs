//! Guests that are stopped: by the host, by Ctrl-Alt-Del, by the power button, by SIGTERM to `boot`. Nothing that a program wrote
//! is lost, and every guest ends.

use image::event::{Happening, StopBy};
use image::status::{Exit, Phase};
use image::wire::{Reply, Request, Until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rig::build::{initrd, program};
use rig::disk::{self, FileSystem};
use rig::guest::Guest;
use rig::qemu::Drive;
use rig::roots::Suite;
use rig::scene::{PATIENCE, ask, bare_guest, boot, request, root_disk, target, vm_tools, wait};
use serde_json::json;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Lines};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

/// What most programs do until they are stopped.
const WAIT: &str = "sleep 0.1";

/// Checks what earlier runs wrote, writes more without syncing, and does something until it is stopped. `on_term` is what SIGTERM does.
fn script(number: u32, on_term: &str, meanwhile: &str) -> String {
    format!(
        "mkdir -p /data && cd /data || exit 90; for sum in *.sum; do test ! -e $sum || sha256sum -c $sum || exit 91; done; \
         ls *.sum 2>/dev/null | wc -l; trap '{on_term}' TERM; \
         head -c 8000000 /dev/urandom > {number}; sha256sum {number} > {number}.sum; \
         echo armed $((40 + {number})); while :; do {meanwhile}; done"
    )
}

/// A guest with this upper layer, whose program has written its file.
fn armed(upper: &Path, number: u32, on_term: &str, meanwhile: &str) -> Guest {
    let drive = Drive { image: upper.into(), read_only: false, serial: image::layout::UPPER_SERIAL.into() };
    let setup = bare_guest().disk(&root_disk(Suite::Bookworm, FileSystem::Ext4), "root").drive(drive);
    let script = script(number, on_term, meanwhile);
    let mut guest = boot(setup.cmdline(&format!("-- /bin/sh -c \"{script}\"")));
    // The command line is on the console, too.
    guest.wait_for_console(&format!("armed {}", 40 + number), PATIENCE).unwrap();
    wait(&guest, Until::Ready);
    guest
}

/// A guest that `boot` has started, whose program has written its file.
struct Started {
    boot: Child,
    lines: Lines<BufReader<ChildStdout>>,
    /// What `boot` itself says.
    said: PathBuf,
    target: String,
}

impl Started {
    fn new(dir: &Path, upper: &Path, number: u32, on_term: &str, append: &str) -> Self {
        let (uds, said) = (dir.join("v.sock"), dir.join("stderr"));
        let root = root_disk(Suite::Bookworm, FileSystem::Ext4);
        let mut command = Command::new(program());
        command.arg("boot").arg("--initrd").arg(&initrd().initrd).arg("--kernel").arg(&initrd().kernel);
        command.arg("--lock").arg(&initrd().lock).arg("--root").arg(root).arg("--upper").arg(upper);
        command.arg("--uds").arg(&uds).arg("--console").arg(dir.join("console.log"));
        command.args(["--accel", "tcg", "--memory", "512", "--append", append]);
        command.args(["--", "/bin/sh", "-c", &script(number, on_term, WAIT)]);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(File::create(&said).unwrap());
        let mut boot = command.spawn().unwrap();
        let mut lines = BufReader::new(boot.stdout.take().unwrap()).lines();
        let armed = format!("armed {}", 40 + number);
        let is_armed = lines.by_ref().map_while(Result::ok).any(|line| line.trim() == armed);
        assert!(is_armed, "the program did not start: {}", fs::read_to_string(&said).unwrap());
        Self { boot, lines, said, target: format!("unix:{}", uds.display()) }
    }

    fn id(&self) -> Pid {
        Pid::from_raw(self.boot.id().cast_signed())
    }

    /// Waits for its end. Returns the exit code, and everything that was printed.
    fn ended(&mut self) -> (Option<i32>, String) {
        let mut lines: Vec<String> = self.lines.by_ref().map_while(Result::ok).collect();
        let code = self.boot.wait().unwrap().code();
        lines.push(fs::read_to_string(&self.said).unwrap());
        (code, lines.join("\n"))
    }
}

/// Who asked, according to the guest's only event about it.
fn asked_by(guest: &Guest) -> StopBy {
    let Reply::Events(events) = request(guest, &Request::Events { from: 0, timeout_ms: 0 }) else { panic!() };
    let stops: Vec<_> = events
        .events
        .iter()
        .filter_map(|event| match event.what {
            Happening::Stop { by, .. } => Some(by),
            _ => None,
        })
        .collect();
    assert_eq!(stops.len(), 1, "{events:?}");
    stops[0]
}

fn exit(code: i32) -> Exit {
    Exit { code: Some(code), signal: None, oom: false }
}

/// The same upper layer in five boots, each of which checks what the earlier ones wrote.
#[test]
fn every_way_to_stop_keeps_what_was_written() {
    let dir = tempfile::tempdir().unwrap();
    let upper = dir.path().join("upper");
    disk::empty(vm_tools(), &upper).unwrap();

    // The host's request. The program takes its time, and the command waits for it.
    let mut guest = armed(&upper, 1, "sleep 2; exit 7", WAIT);
    let address = target(&guest).to_string();
    let stop = |more: &[&str]| {
        Command::new(program()).args(["stop", &address]).args(more).stdin(Stdio::null()).output().unwrap()
    };
    let (output, status) = std::thread::scope(|scope| {
        let stopped = scope.spawn(|| stop(&["--json"]));
        let status = wait(&guest, Until::Phase(Phase::Stopping));
        (stopped.join().unwrap(), status)
    });
    let text = String::from_utf8_lossy(&output.stdout);
    let line: serde_json::Value =
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {output:?}"));
    assert_eq!(
        (output.status.code(), &line["ended"], &line["exit_status"]),
        (Some(0), &json!(true), &json!(7)),
        "{text}"
    );
    assert_eq!(line["reason"], "the container ended: exit code 7");
    assert!(status.phases.iter().any(|time| time.phase == Phase::Stopping), "{:?}", status.phases);
    guest.wait_for_end(PATIENCE).unwrap();

    // Ctrl-Alt-Del.
    let mut guest = armed(&upper, 2, "exit 8", WAIT);
    let keys = ["ctrl", "alt", "delete"].map(|key| json!({ "type": "qcode", "data": key }));
    guest.monitor("send-key", &json!({ "keys": keys })).unwrap();
    assert_eq!(wait(&guest, Until::Exited).container.unwrap().exit, Some(exit(8)));
    assert_eq!(asked_by(&guest), StopBy::CtrlAltDel);
    guest.wait_for_end(PATIENCE).unwrap();

    // SIGTERM to `boot`, whose guest accepts no requests: the power button, and a program that does not stop.
    let mut started =
        Started::new(dir.path(), &upper, 3, "", "gpu_initrd.control=none gpu_initrd.stop_grace=2s");
    kill(started.id(), Signal::SIGTERM).unwrap();
    let events = Command::new(program()).arg("events").arg(&started.target).arg("--json").output().unwrap();
    let events = String::from_utf8_lossy(&events.stdout).into_owned();
    assert!(events.contains(r#""by":"power-button""#), "{events}");
    let (code, said) = started.ended();
    assert_eq!(code, Some(137), "{said}");
    assert!(
        said.contains("with its power button, because") && said.contains("does not accept stop"),
        "{said}"
    );

    // SIGTERM to `boot`, which ends with the program's exit code.
    let mut started = Started::new(dir.path(), &upper, 4, "exit 9", "");
    kill(started.id(), Signal::SIGTERM).unwrap();
    let (code, said) = started.ended();
    assert_eq!(code, Some(9), "{said}");
    assert!(said.contains("stopping the guest over vsock"), "{said}");

    // The last one finds the files of all.
    let mut guest = armed(&upper, 5, "exit 0", "date > busy; sync");
    assert!(guest.console().contains("\n4\n"), "{}", guest.console());
    // And its disk stops answering while the program writes to it; no signal ends its process then. The guest answers, ends all the
    // same, and says what may be lost.
    guest.freeze_disk(1).unwrap();
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(ask(&guest).phase, Phase::Running);
    assert_eq!(stop_quickly(&guest), 137, "SIGKILL, and no grace period");
    let (_, console) = guest.wait_for_end(PATIENCE).unwrap();
    assert!(console.contains("some processes did not end within 2 s"), "{console}");
    assert!(console.contains("did not end within 10 s"), "{console}");
    assert!(console.contains("the last writes may be lost"), "{console}");
}

/// Stops a guest with SIGKILL. Returns its exit status.
fn stop_quickly(guest: &Guest) -> i32 {
    let Reply::Status(_) = request(guest, &Request::Stop { signal: 9, grace_ms: None }) else { panic!() };
    wait(guest, Until::Exited).exit_status()
}
