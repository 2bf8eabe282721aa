//! What a guest sends to the host without a request: events on a connection of their own, and
//! systemd's notifications.

use image::event::{Event, Happening};
use image::status::{Outcome, Phase};
use image::wire::{self, MAX_REPLY, Reply};
use rig::scene::{PATIENCE, boot, guest, guest_with_driver};
use std::io::Read;
use std::os::unix::net::UnixListener;
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

/// Each notification is a connection; they come in order.
fn notifications(listener: UnixListener) -> Receiver<String> {
    let (sender, receiver) = channel();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut text = String::new();
            let Ok(mut stream) = stream else { return };
            stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
            stream.read_to_string(&mut text).unwrap();
            if sender.send(text).is_err() {
                return;
            }
        }
    });
    receiver
}

/// The lines of all notifications up to the one with `EXIT_STATUS=`.
fn until_exit(said: &Receiver<String>) -> Vec<String> {
    let deadline = Instant::now() + PATIENCE;
    let mut lines = Vec::new();
    loop {
        let text = said.recv_timeout(deadline.saturating_duration_since(Instant::now()));
        let text = text.unwrap_or_else(|_| panic!("no EXIT_STATUS= within {PATIENCE:?} among {lines:?}"));
        lines.extend(text.lines().map(str::to_owned));
        if text.contains("EXIT_STATUS=") {
            return lines;
        }
    }
}

fn position(lines: &[String], line: &str) -> usize {
    lines.iter().position(|found| found == line).unwrap_or_else(|| panic!("no {line} in {lines:?}"))
}

/// Frames on one connection until the guest closes it. Each is in the oldest version of the protocol: an older host-builder listens, too.
fn pushed(listener: &UnixListener) -> Vec<Event> {
    let (mut stream, _) = listener.accept().unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut events = Vec::new();
    while let Ok((reply, version)) = wire::read_versioned::<Reply>(&mut stream, MAX_REPLY) {
        let Reply::Events(part) = reply else { panic!("{reply:?}") };
        assert_eq!((part.lost, version), (0, wire::OLDEST));
        events.extend(part.events);
    }
    events
}

#[test]
fn supervisor_and_listener_receive_every_event() {
    let setup = guest()
        .oem_string("io.systemd.credential:vmm.notify_socket=vsock-stream:2:9000")
        .cmdline("gpu_initrd.notify=vsock:2:9001 -- ending exit 3");
    let said = notifications(setup.listen(9000).unwrap());
    let listener = setup.listen(9001).unwrap();
    let events = thread::spawn(move || pushed(&listener));
    let mut guest = boot(setup);

    let lines = until_exit(&said);
    let ready = position(&lines, "READY=1");
    let exit = position(&lines, "EXIT_STATUS=3");
    assert!(position(&lines, "STATUS=root") < ready && ready < exit, "{lines:?}");
    assert_eq!(lines.iter().filter(|line| *line == "READY=1").count(), 1);
    assert!(lines.contains(&"STATUS=the container ended: exit code 3".to_owned()), "{lines:?}");
    assert!(!lines.iter().any(|line| line.starts_with("ERRNO=")), "{lines:?}");

    let (_, console) = guest.wait_for_end(PATIENCE).unwrap();
    let events = events.join().unwrap();
    let numbers: Vec<u64> = events.iter().map(|event| event.sequence).collect();
    assert_eq!(numbers, (1..=numbers.len() as u64).collect::<Vec<_>>());
    assert!(events.is_sorted_by_key(|event| event.at_ms), "{events:?}");
    let has = |what: &dyn Fn(&Happening) -> bool| events.iter().any(|event| what(&event.what));
    assert!(has(&|what| matches!(what, Happening::Outcome(Outcome::Ready))));
    assert!(has(&|what| matches!(what, Happening::Started { restarts: 0, .. })));
    assert!(has(&|what| matches!(what, Happening::Exited(exit) if exit.code == Some(3))));
    assert!(has(&|what| matches!(what, Happening::Phase { phase: Phase::Exited, .. })));
    assert!(
        console.contains("gpu-initrd: powering off: the container ended: exit code 3; exit status 3"),
        "{console}"
    );
}

#[test]
fn supervisor_receives_the_reason_of_a_failed_boot() {
    let setup = guest_with_driver().cmdline(
        "HAS_GPU=1 gpu_initrd.linger=1s systemd.set_credential=vmm.notify_socket:vsock-stream:2:9000 -- true",
    );
    let said = notifications(setup.listen(9000).unwrap());
    let mut guest = boot(setup);
    let lines = until_exit(&said);
    position(&lines, "EXIT_STATUS=1");
    assert_eq!(position(&lines, "ERRNO=19"), lines.len() - 1);
    let why = "the boot failed: no-gpu: HAS_GPU=1 promises a GPU";
    assert!(lines.iter().any(|line| line.starts_with(&format!("STATUS={why}"))), "{lines:?}");
    let (_, console) = guest.wait_for_end(PATIENCE).unwrap();
    let ours: Vec<_> = console.lines().filter(|line| line.contains("gpu-initrd: ")).collect();
    assert!(ours.last().unwrap().contains(&format!("powering off: {why}")), "{ours:#?}");
    assert!(ours.last().unwrap().ends_with("; exit status 1"), "{ours:#?}");
}
