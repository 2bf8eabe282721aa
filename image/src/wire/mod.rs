//! Frames on vsock: one request, one reply, bounded on both sides, versioned. What is followed (events, logs) is asked for
//! again and again, each time from where the last answer ended.
//!
//! Versions: a program of this release reads and writes every version from [`OLDEST`] to [`VERSION`]. Within these versions,
//! types change only by new variants at the end of an enum, so older frames are read with the types of today; for an older
//! reader, [`Reply::for_version`] replaces the variants that it does not know. A guest answers in the version of the request; a
//! host asks in the newest one, and again in the guest's if the guest refuses that.
//!
//! A frame is 12 bytes of header and a payload: magic `gpui`, version (u16 LE), reserved (u16, 0), payload length
//! (u32 LE), then the payload in bincode 2 (standard configuration). bincode is used nowhere but here, so that a
//! successor can replace it with a version step.

mod frame;
mod message;

pub use frame::{Decoder, WireError, read, read_versioned, write, write_as};
pub use message::{Reply, Request, STOP_SIGNALS, Until, stop_signal_names};

/// Newest version of the frames and of what is in them.
pub const VERSION: u16 = 8;
/// Oldest version that this release speaks.
pub const OLDEST: u16 = 7;
/// Port the guest listens on unless told otherwise.
pub const DEFAULT_PORT: u32 = 1042;
/// Largest request, payload bytes.
pub const MAX_REQUEST: usize = 64 << 10;
/// Largest reply, payload bytes.
pub const MAX_REPLY: usize = 1 << 20;
