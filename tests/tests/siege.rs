//! A hostile host: thousands of connections with random frames, from before the guest listens. The
//! decoder of frames has a fuzz target of its own.

use image::status::Outcome;
use image::wire::{self, MAX_REPLY, MAX_REQUEST, Reply, Request, Until};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rand::rngs::SmallRng;
use rand::{Rng, RngExt, SeedableRng};
use rig::guest::Guest;
use rig::scene::{PATIENCE, ask, boot, guest, wait};
use rig::vsock;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

const CONNECTIONS: usize = 2_000;
/// Frames of one connection. The guest reads the first one, and refuses a connection that goes on.
const FRAMES: usize = 4;
/// Attackers at a time, more than the guest serves: each waits for the deadline of a frame that it does not complete.
const SOLDIERS: usize = 24;

/// Frames that are wrong from the first byte, later, or not at all.
fn frame(random: &mut SmallRng) -> Vec<u8> {
    let mut payload = vec![0; random.random_range(0..64)];
    random.fill_bytes(&mut payload);
    let mut frame = Vec::new();
    match random.random_range(0..4) {
        0 => return payload,
        // A header that is right, around nonsense; sometimes with a length that never comes.
        1 => {
            wire::write(&mut frame, &Request::Status, MAX_REQUEST).unwrap();
            let length = u32::try_from(payload.len()).unwrap() << random.random_range(0..20);
            frame.truncate(8);
            frame.extend(length.to_le_bytes());
            frame.extend(payload);
        }
        2 => {
            wire::write(&mut frame, &Request::Events { from: random.random(), timeout_ms: 1 }, MAX_REQUEST)
                .unwrap();
            let at = random.random_range(0..frame.len());
            frame[at] = random.random();
        }
        _ => wire::write(&mut frame, &Request::Status, MAX_REQUEST).unwrap(),
    }
    frame
}

/// One connection with many frames; the guest's answer is not checked.
fn attack(uds: &Path, random: &mut SmallRng) -> bool {
    let Ok(mut stream) = vsock::try_connect(uds, wire::DEFAULT_PORT) else {
        // No program listens yet. The attempts are frequent enough to hit the time when QEMU hands
        // the rings to the backend.
        std::thread::sleep(Duration::from_micros(200));
        return false;
    };
    let bytes: Vec<u8> = (0..FRAMES).flat_map(|_| frame(random)).collect();
    stream.set_write_timeout(Some(Duration::from_secs(10))).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let _ = stream.write_all(&bytes);
    match random.random_range(0..3) {
        0 => {}
        1 => drop(stream.shutdown(Shutdown::Write)),
        _ => drop(stream.read(&mut [0; 4096])),
    }
    true
}

/// The connections that a guest serves, and the number of them that may wait.
const PLACES: usize = 16;
const WAITING: usize = 12;

/// A connection on which this was sent.
fn said(guest: &Guest, bytes: &[u8]) -> UnixStream {
    let mut stream = guest.connect(wire::DEFAULT_PORT, PATIENCE).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(bytes).unwrap();
    stream
}

/// The first of these that is answered.
fn first_to_hear(streams: &[UnixStream]) -> usize {
    let mut fds: Vec<_> =
        streams.iter().map(|stream| PollFd::new(stream.as_fd(), PollFlags::POLLIN)).collect();
    let deadline = PollTimeout::try_from(PATIENCE).unwrap();
    assert_eq!(poll(&mut fds, deadline), Ok(1), "one has no place");
    fds.iter().position(|fd| fd.any().unwrap()).unwrap()
}

fn request(request: &Request) -> Vec<u8> {
    let mut bytes = Vec::new();
    wire::write(&mut bytes, request, MAX_REQUEST).unwrap();
    bytes
}

#[test]
fn idle_clients_are_closed_and_waiting_ones_are_limited() {
    let guest = boot(guest().cmdline("-- /bin/sh -c \"while sleep 1; do :; done\""));
    wait(&guest, Until::Ready);
    // Idle clients and half-sent requests occupy all places, and every other client is still
    // answered in the end.
    let status = request(&Request::Status);
    let silent: Vec<_> = (0..PLACES).map(|n| said(&guest, &status[..n % 2 * 7])).collect();
    assert_eq!(ask(&guest).outcome, Outcome::Ready);
    for mut stream in silent {
        // A refusal or nothing, then the end.
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).unwrap();
    }

    let exited = request(&Request::Wait { until: Until::Exited, timeout_ms: 600_000 });
    let mut waiting: Vec<_> = (0..=WAITING).map(|_| said(&guest, &exited)).collect();
    let refused = first_to_hear(&waiting);
    let reply: Reply = wire::read(&mut waiting.remove(refused), MAX_REPLY).unwrap();
    assert!(matches!(&reply, Reply::Refused(why) if why.contains("12 clients are waiting")), "{reply:?}");
    assert_eq!(ask(&guest).outcome, Outcome::Ready);
    drop(waiting);
    // A client that has disconnected no longer waits.
    let soon = request(&Request::Wait { until: Until::Exited, timeout_ms: 1 });
    let answered = || {
        let reply = wire::read(&mut said(&guest, &soon), MAX_REPLY).unwrap();
        matches!(reply, Reply::Status(_))
    };
    let end = Instant::now() + PATIENCE;
    while !answered() {
        assert!(Instant::now() < end, "the places of who has gone stay taken");
    }
}

#[test]
fn hostile_clients_harm_neither_memory_nor_boot() {
    let guest = boot(guest().cmdline("-- sleep 1000"));
    let uds = guest.uds().unwrap();
    let taken = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for soldier in 0..SOLDIERS {
            let taken = &taken;
            scope.spawn(move || {
                let mut random = SmallRng::seed_from_u64(soldier as u64);
                while taken.load(Ordering::Relaxed) < CONNECTIONS {
                    taken.fetch_add(usize::from(attack(uds, &mut random)), Ordering::Relaxed);
                }
            });
        }
        let status = wait(&guest, Until::Ready);
        assert_eq!((status.outcome, status.findings), (Outcome::Ready, vec![]));
    });
    assert!(taken.load(Ordering::Relaxed) >= CONNECTIONS);

    // Every place is free again, and the guest answers as before.
    let mut stream = guest.connect(wire::DEFAULT_PORT, PATIENCE).unwrap();
    wire::write(&mut stream, &Request::Status, MAX_REQUEST).unwrap();
    let reply: Reply = wire::read(&mut stream, MAX_REPLY).unwrap();
    assert!(matches!(reply, Reply::Status(_)), "{reply:?}");
    let init = ask(&guest).memory.unwrap().init;
    assert!(init > 0 && init < 5 << 20, "PID 1 had {init} bytes resident");
}
