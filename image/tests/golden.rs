//! The protocol as it is on the wire: frames in `golden/`, which a change of the types must not change without a new version.

#![allow(clippy::unwrap_used, reason = "tests")]

mod sample;

use image::wire::{self, MAX_REPLY, MAX_REQUEST, Reply, Request, VERSION, WireError};
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
    for (name, reply) in sample::replies() {
        check(name, &reply, MAX_REPLY);
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
