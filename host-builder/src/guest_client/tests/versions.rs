//! Guests of several releases side by side, made from the golden frames of their versions.

use super::*;
use crate::guest_client::metrics::Collector;
use image::wire::{OLDEST, VERSION};
use std::io::Read;

fn golden(version: u16, name: &str) -> Vec<u8> {
    let path = format!("{}/../image/golden/v{version}/{name}.frame", env!("CARGO_MANIFEST_DIR"));
    std::fs::read(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// A guest that speaks one version, as the releases before this one did: it refuses every other one,
/// and answers with the frames of that version.
fn guest_of(version: u16) -> FakeGuest {
    FakeGuest::new(move |_, mut stream| {
        stream.write_all(b"OK 1\n").unwrap();
        let mut header = [0; 12];
        stream.read_exact(&mut header).unwrap();
        let mut payload = vec![0; usize::from(header[8])];
        stream.read_exact(&mut payload).unwrap();
        let name = match payload[0] {
            _ if u16::from_le_bytes([header[4], header[5]]) != version => "reply-refused",
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
