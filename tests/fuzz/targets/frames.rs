//! Frames of the status protocol, as each side reads what the other sends.
#![no_main]

use image::session::{Item, MAX_FRAME, ToGuest, ToHost};
use image::wire::{self, Decoder, MAX_REPLY, MAX_REQUEST, Reply, Request};
use libfuzzer_sys::fuzz_target;
use serde::{Serialize, de::DeserializeOwned};

/// What is read and written again reads as the same.
fn check<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(data: &[u8], most: usize) {
    if let Ok(message) = wire::read::<T>(&mut &data[..], most) {
        let mut frame = Vec::new();
        wire::write(&mut frame, &message, MAX_REPLY).expect("what was decoded within bounds has bounds");
        assert_eq!(wire::read::<T>(&mut &frame[..], MAX_REPLY).expect("our own frames are good"), message);
    }
}

/// Frames that arrive byte by byte are those that arrive at once.
fn check_pieces(data: &[u8]) {
    let read = |size: usize| {
        let (mut decoder, mut found) = (Decoder::default(), Vec::new());
        for piece in data.chunks(size) {
            decoder.feed(piece);
            while let Ok(Some(message)) = decoder.next::<ToGuest>(MAX_FRAME) {
                found.push(message);
            }
        }
        found
    };
    assert_eq!(read(1), read(data.len().max(1)));
}

fuzz_target!(|data: &[u8]| {
    check::<Request>(data, MAX_REQUEST);
    check::<Reply>(data, MAX_REPLY);
    check::<ToGuest>(data, MAX_FRAME);
    check::<ToHost>(data, MAX_FRAME);
    check::<Item>(data, MAX_FRAME);
    check_pieces(data);
});
