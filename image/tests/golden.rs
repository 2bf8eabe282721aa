//! The protocol as it is on the wire: frames in `golden/`, which a change of the types must not change without a new version.

#![allow(clippy::unwrap_used, reason = "tests")]

mod sample;

use image::session::MAX_FRAME;
use image::status::{Phase, PhaseTime};
use image::wire::{self, MAX_REPLY, MAX_REQUEST, OLDEST, Reply, Request, VERSION, WireError};
use serde::{Serialize, de::DeserializeOwned};
use std::fmt::Debug;
use std::path::PathBuf;

fn golden(version: u16, name: &str) -> Vec<u8> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("golden/v{version}/{name}.frame"));
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn check<T: Serialize + DeserializeOwned + PartialEq + Debug>(name: &str, message: &T, most: usize) {
    let golden = golden(VERSION, name);
    let mut frame = Vec::new();
    wire::write(&mut frame, message, most).unwrap();
    assert_eq!(
        frame, golden,
        "{name}: the frame has changed. Raise wire::VERSION, then: cargo run -p image --example golden_frames"
    );
    assert_eq!(&wire::read::<T>(&mut &golden[..], most).unwrap(), message, "{name}");
}

#[test]
fn the_frames_of_this_version_are_those_in_the_repository() {
    for (name, request) in sample::requests() {
        check(name, &request, MAX_REQUEST);
    }
    for (name, reply) in sample::replies().into_iter().chain(sample::replies_since_8()) {
        check(name, &reply, MAX_REPLY);
    }
}

#[test]
fn the_frames_of_a_session_are_those_in_the_repository() {
    for (name, message) in sample::to_guest() {
        check(name, &message, MAX_FRAME);
    }
    for (name, message) in sample::to_host() {
        check(name, &message, MAX_FRAME);
    }
    for (name, item) in sample::items() {
        check(name, &item, MAX_FRAME);
    }
}

/// Frames of older versions never change: they are what older guests send, and what older hosts receive.
#[test]
fn older_versions_are_read_and_written_as_they_were() {
    for version in OLDEST..VERSION {
        for (name, request) in
            sample::requests().into_iter().filter(|(_, request)| request.since() <= version)
        {
            let mut frame = Vec::new();
            wire::write_as(&mut frame, &request, MAX_REQUEST, version).unwrap();
            assert_eq!(frame, golden(version, name), "{name} of version {version}");
            assert_eq!(wire::read_versioned(&mut &frame[..], MAX_REQUEST).unwrap(), (request, version));
        }
        for (name, reply) in sample::replies() {
            let reply = reply.for_version(version);
            let mut frame = Vec::new();
            wire::write_as(&mut frame, &reply, MAX_REPLY, version).unwrap();
            assert_eq!(frame, golden(version, name), "{name} of version {version}");
            assert_eq!(wire::read_versioned(&mut &frame[..], MAX_REPLY).unwrap(), (reply, version));
        }
    }
}

#[test]
fn an_older_reader_receives_nothing_that_it_does_not_know() {
    let mut status = sample::status();
    status.phase = Phase::Stopping;
    let time = status.phases[0].clone();
    status.phases.push(PhaseTime { phase: Phase::Stopping, ..time });
    let Reply::Status(old) = Reply::Status(Box::new(status.clone())).for_version(7) else { panic!() };
    assert_eq!((old.phase, old.phases.len()), (Phase::Running, status.phases.len() - 1));
    for (name, reply) in sample::replies_since_8() {
        // Others answer requests that the version does not have.
        if let Reply::Events(events) = reply.for_version(7) {
            assert!(events.events.is_empty() && events.next > 1, "{name}: {events:?}");
        }
    }
    let Reply::Status(new) = Reply::Status(Box::new(status.clone())).for_version(VERSION) else { panic!() };
    assert_eq!(*new, status);
}

/// A guest pushes events in this version, so that hosts of older releases can listen.
#[test]
fn oldest_version_of_a_reply_has_all_of_it() {
    for (name, reply) in sample::replies() {
        assert_eq!(reply.oldest_version(), OLDEST, "{name}");
    }
    for (name, reply) in sample::replies_since_8() {
        assert_eq!(reply.oldest_version(), 8, "{name}");
        if let Reply::Events(_) = reply {
            assert_eq!(reply.for_version(7).oldest_version(), 7, "{name}");
        }
    }
}

#[test]
fn a_peer_of_another_version_is_named_as_such() {
    for (version, name) in [(3, "request-status"), (3, "reply-refused")] {
        let found = wire::read::<Reply>(&mut &golden(version, name)[..], MAX_REPLY).unwrap_err();
        assert!(matches!(found, WireError::Version { found } if found == version), "{name}: {found}");
    }
    let mut newer = golden(VERSION, "request-status");
    newer[4..6].copy_from_slice(&(VERSION + 1).to_le_bytes());
    let found = wire::read::<Request>(&mut &newer[..], MAX_REQUEST).unwrap_err();
    assert!(matches!(found, WireError::Version { found } if found == VERSION + 1), "{found}");
}

/// Why an old guest refuses is readable by a newer host, and the reverse: all but the version stays as it is.
#[test]
fn a_refusal_has_the_same_bytes_in_every_version() {
    let (old, new) = (golden(3, "reply-refused"), golden(VERSION, "reply-refused"));
    assert_eq!((&old[..4], &old[6..]), (&new[..4], &new[6..]));
}
