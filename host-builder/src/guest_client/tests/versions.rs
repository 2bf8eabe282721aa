//! Guests of several releases side by side, made from the golden frames of their versions.

use super::*;
use crate::guest_client::metrics::Collector;
use image::wire::{OLDEST, VERSION};
use std::io::Read;
use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

fn golden(version: u16, name: &str) -> Vec<u8> {
    let path = format!("{}/../image/golden/v{version}/{name}.frame", env!("CARGO_MANIFEST_DIR"));
    std::fs::read(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Answers `CONNECT`. Returns the version of the request and the number of its variant.
fn read_request(stream: &mut UnixStream) -> (u16, u8) {
    stream.write_all(b"OK 1\n").unwrap();
    let mut header = [0; 12];
    stream.read_exact(&mut header).unwrap();
    let mut payload = vec![0; usize::from(header[8])];
    stream.read_exact(&mut payload).unwrap();
    (u16::from_le_bytes([header[4], header[5]]), payload[0])
}

/// A guest that speaks one version, as the releases before this one did: it refuses every other one,
/// and answers with the frames of that version.
fn guest_of(version: u16) -> FakeGuest {
    changing_guest(Arc::new(AtomicU16::new(version)), Arc::default())
}

/// The same, whose version is that of `spoken`. It counts its connections.
fn changing_guest(spoken: Arc<AtomicU16>, connections: Arc<AtomicUsize>) -> FakeGuest {
    FakeGuest::new(move |_, mut stream| {
        connections.fetch_add(1, Ordering::Relaxed);
        let version = spoken.load(Ordering::Relaxed);
        let (asked, request) = read_request(&mut stream);
        let name = match request {
            _ if asked != version => "reply-refused",
            2 if version >= 8 => "reply-events-stop",
            2 => "reply-events",
            3 => "reply-logs",
            _ => "reply-status",
        };
        stream.write_all(&golden(version, name)).unwrap();
    })
}

#[test]
fn guests_of_every_version_are_asked_side_by_side() {
    let guests: Vec<(u16, FakeGuest)> =
        (OLDEST..=VERSION).map(|version| (version, guest_of(version))).collect();
    assert!(guests.len() > 1);
    for (version, guest) in &guests {
        let status = guest.ask().unwrap();
        assert_eq!(status.findings.len(), 1, "of version {version}");
        assert_eq!(wait(&guest.target(), Until::Ready, SOON).unwrap(), status);
        let mut events = Vec::new();
        let each = |part: Part<image::event::Event>| {
            events.extend(part.items);
            std::ops::ControlFlow::Break(())
        };
        all(&guest.target(), (), (false, SOON), each).unwrap();
        let has_stop = events.iter().any(|event| matches!(event.what, Happening::Stop { .. }));
        assert_eq!(has_stop, *version >= 8, "{events:?}");
        let stopped = stop(&guest.target(), 15, None, Instant::now() + SOON);
        if *version >= 8 {
            assert_eq!(stopped.unwrap(), status);
        } else {
            let error = stopped.unwrap_err();
            assert!(
                matches!(&error, QueryError::UnknownRequest { name: "stop", found } if found == version),
                "{error:?}"
            );
            assert!(error.to_string().contains("does not have the request stop"), "{error}");
        }
    }
    let targets: Vec<Target> = guests.iter().map(|(_, guest)| guest.target()).collect();
    let scrape = Collector::default().scrape(&targets, SOON);
    assert_eq!((scrape.down, scrape.text.matches("\ngpu_initrd_up{").count()), (0, guests.len()));
}

#[test]
fn a_newer_guest_refuses_and_is_named() {
    let guest = FakeGuest::new(|_, mut stream| {
        stream.write_all(b"OK 1\n").unwrap();
        let mut frame = golden(VERSION, "reply-refused");
        frame[4..6].copy_from_slice(&(VERSION + 1).to_le_bytes());
        stream.write_all(&frame).unwrap();
    });
    let error = guest.ask().unwrap_err();
    assert!(matches!(error, QueryError::OtherVersion { found } if found == VERSION + 1), "{error:?}");
}

/// What a program that asks again and again costs an old guest, and a guest that replaces it.
#[test]
fn version_of_a_guest_is_remembered_until_it_changes() {
    let (spoken, connections) = (Arc::new(AtomicU16::new(OLDEST)), Arc::<AtomicUsize>::default());
    let guest = changing_guest(spoken.clone(), connections.clone());
    let cost = |ask: &dyn Fn()| {
        let before = connections.load(Ordering::Relaxed);
        ask();
        connections.load(Ordering::Relaxed) - before
    };
    let status = || drop(guest.ask().unwrap());
    assert_eq!(cost(&status), 2, "refused, then asked in the guest's version");
    assert_eq!(cost(&status), 1);
    assert_eq!(cost(&|| wait_for_change(&guest.target(), &Status::default(), Duration::ZERO)), 1);
    // A request that the guest does not have says so again, and the version is still remembered.
    let stop = || drop(stop(&guest.target(), 15, None, Instant::now() + SOON).unwrap_err());
    assert_eq!((cost(&stop), cost(&status)), (1, 1));
    // A guest of this release in its place.
    spoken.store(VERSION, Ordering::Relaxed);
    assert_eq!(cost(&status), 2, "refused, then asked in the newest version");
    assert_eq!(cost(&status), 1);
}

#[test]
fn failed_request_forgets_the_version_of_a_guest() {
    let asked = Arc::<Mutex<Vec<u16>>>::default();
    let seen = asked.clone();
    let guest = FakeGuest::new(move |number, mut stream| {
        seen.lock().unwrap().push(read_request(&mut stream).0);
        match number {
            0 | 3 => stream.write_all(&golden(OLDEST, "reply-refused")).unwrap(),
            1 | 4 => stream.write_all(&golden(OLDEST, "reply-status")).unwrap(),
            // It ends, and another guest takes its place.
            _ => {}
        }
    });
    guest.ask().unwrap();
    guest.ask().unwrap_err();
    guest.ask().unwrap();
    assert_eq!(*asked.lock().unwrap(), [VERSION, OLDEST, OLDEST, VERSION, OLDEST]);
}
