//! One message in its frame: written, read, and decoded from bytes that arrive in pieces.

use super::{MAX_REPLY, OLDEST, VERSION};
use serde::{Serialize, de::DeserializeOwned};
use std::io::{self, Read, Write};

const MAGIC: &[u8; 4] = b"gpui";
const HEADER: usize = 12;

/// What can go wrong with a frame.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// The connection failed or ended early.
    #[error("the connection failed: {0}")]
    Io(#[from] io::Error),
    /// Not our magic.
    #[error("not the gpu-initrd protocol: expected frames that begin with `gpui`, found {found:02x?}")]
    Magic {
        /// The first four bytes.
        found: [u8; 4],
    },
    /// Another version.
    #[error(
        "the peer speaks protocol version {found}, this program speaks versions {OLDEST} to {VERSION}; use host-builder and initrd of releases that have one in common"
    )]
    Version {
        /// The peer's version.
        found: u16,
    },
    /// Larger than the bound.
    #[error("frame too large: found {found} bytes (expected at most {most})")]
    TooLarge {
        /// Its size.
        found: usize,
        /// The bound.
        most: usize,
    },
    /// The payload is not what it should be.
    #[error("the frame's payload is malformed: {0}")]
    Malformed(String),
}

/// Writes one frame in the newest version.
pub fn write<T: Serialize>(out: &mut impl Write, message: &T, most: usize) -> Result<(), WireError> {
    write_as(out, message, most, VERSION)
}

/// Writes one frame in a version that has this message ([`Request::since`], [`Reply::for_version`]).
pub fn write_as<T: Serialize>(
    out: &mut impl Write,
    message: &T,
    most: usize,
    version: u16,
) -> Result<(), WireError> {
    let payload = bincode::serde::encode_to_vec(message, bincode::config::standard())
        .map_err(|error| WireError::Malformed(error.to_string()))?;
    if payload.len() > most {
        return Err(WireError::TooLarge { found: payload.len(), most });
    }
    let length = u32::try_from(payload.len()).expect("bounded above");
    let mut frame = Vec::with_capacity(HEADER + payload.len());
    frame.extend_from_slice(MAGIC);
    frame.extend_from_slice(&version.to_le_bytes());
    frame.extend_from_slice(&[0, 0]);
    frame.extend_from_slice(&length.to_le_bytes());
    frame.extend_from_slice(&payload);
    out.write_all(&frame)?;
    out.flush()?;
    Ok(())
}

/// Reads one frame of at most `most` payload bytes.
pub fn read<T: DeserializeOwned>(input: &mut impl Read, most: usize) -> Result<T, WireError> {
    read_versioned(input, most).map(|(message, _)| message)
}

/// [`read`], with the version of the frame.
pub fn read_versioned<T: DeserializeOwned>(
    input: &mut impl Read,
    most: usize,
) -> Result<(T, u16), WireError> {
    let mut header = [0; HEADER];
    input.read_exact(&mut header)?;
    let magic = [header[0], header[1], header[2], header[3]];
    if &magic != MAGIC {
        return Err(WireError::Magic { found: magic });
    }
    let version = u16::from_le_bytes([header[4], header[5]]);
    if !(OLDEST..=VERSION).contains(&version) {
        return Err(WireError::Version { found: version });
    }
    let length = u32::from_le_bytes([header[8], header[9], header[10], header[11]]) as usize;
    if length > most {
        return Err(WireError::TooLarge { found: length, most });
    }
    let mut payload = vec![0; length];
    input.read_exact(&mut payload)?;
    Ok((decode(&payload)?, version))
}

/// Decodes frames from bytes that arrive in pieces.
#[derive(Debug, Default)]
pub struct Decoder {
    bytes: Vec<u8>,
    /// How many of them are decoded.
    used: usize,
}

impl Decoder {
    /// Adds bytes.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.bytes.drain(..self.used);
        self.used = 0;
        self.bytes.extend_from_slice(bytes);
    }

    /// Returns the next frame of at most `most` payload bytes, if it is complete.
    pub fn next<T: DeserializeOwned>(&mut self, most: usize) -> Result<Option<T>, WireError> {
        let mut rest = &self.bytes[self.used..];
        match read(&mut rest, most) {
            Ok(message) => {
                self.used = self.bytes.len() - rest.len();
                Ok(Some(message))
            }
            Err(WireError::Io(error)) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
            Err(error) => Err(error),
        }
    }
}

fn decode<T: DeserializeOwned>(payload: &[u8]) -> Result<T, WireError> {
    // The limit bounds what a lying length inside the payload can make us allocate.
    let config = bincode::config::standard().with_limit::<MAX_REPLY>();
    let (message, used) = bincode::serde::decode_from_slice(payload, config)
        .map_err(|error| WireError::Malformed(error.to_string()))?;
    if used != payload.len() {
        return Err(WireError::Malformed(format!("{} unexpected bytes at the end", payload.len() - used)));
    }
    Ok(message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{MAX_REQUEST, Reply, Request};

    fn frame(request: &Request) -> Vec<u8> {
        let mut bytes = Vec::new();
        write(&mut bytes, request, MAX_REQUEST).unwrap();
        bytes
    }

    #[test]
    fn a_frame_is_magic_version_zeros_length_and_payload() {
        assert_eq!(frame(&Request::Status), *b"gpui\x08\0\0\0\x01\0\0\0\0");
    }

    #[test]
    fn each_defect_has_its_own_error() {
        let good = frame(&Request::Status);
        let with = |index: usize, byte: u8| {
            let mut bytes = good.clone();
            bytes[index] = byte;
            read::<Request>(&mut &bytes[..], MAX_REQUEST).unwrap_err()
        };
        assert!(matches!(with(0, b'H'), WireError::Magic { .. }));
        assert!(matches!(with(4, 9), WireError::Version { found: 9 }));
        assert!(matches!(with(11, 0xff), WireError::TooLarge { .. }));
        assert!(matches!(with(12, 0x55), WireError::Malformed(_)));
        assert!(matches!(with(8, 2), WireError::Io(_)));
    }

    #[test]
    fn frames_are_decoded_wherever_they_are_cut() {
        let requests = [Request::Status, Request::Stop { signal: 15, grace_ms: Some(1) }, Request::Status];
        let bytes: Vec<u8> = requests.iter().flat_map(frame).collect();
        for size in [1, 5, 13, bytes.len()] {
            let (mut decoder, mut found) = (Decoder::default(), Vec::new());
            for piece in bytes.chunks(size) {
                decoder.feed(piece);
                while let Some(request) = decoder.next::<Request>(MAX_REQUEST).unwrap() {
                    found.push(request);
                }
            }
            assert_eq!(found, requests, "{size}");
        }
        let mut decoder = Decoder::default();
        decoder.feed(b"gpux");
        assert!(decoder.next::<Request>(MAX_REQUEST).unwrap().is_none(), "the header is not complete");
        decoder.feed(&[0; 8]);
        assert!(matches!(decoder.next::<Request>(MAX_REQUEST), Err(WireError::Magic { .. })));
    }

    #[test]
    fn a_huge_length_inside_the_payload_allocates_nothing() {
        // Reply::Refused with a string that claims 2^62 bytes.
        let payload = [1, 0xfd, 0, 0, 0, 0, 0, 0, 0, 0x40];
        assert!(matches!(decode::<Reply>(&payload), Err(WireError::Malformed(_))));
    }
}
