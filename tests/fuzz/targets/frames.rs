//! Frames of the status protocol, as each side reads what the other sends.
#![no_main]

use image::wire::{self, MAX_REPLY, MAX_REQUEST, Reply, Request};
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

fuzz_target!(|data: &[u8]| {
    check::<Request>(data, MAX_REQUEST);
    check::<Reply>(data, MAX_REPLY);
});
