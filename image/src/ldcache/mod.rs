//! The file /etc/ld.so.cache: read, written, ordered (glibc, `elf/cache.c` and `sysdeps/generic/dl-cache.h`).
//!
//! Three layouts are around. Until glibc 2.31 a table of the libc5 days stood in front of the one that is used,
//! both in one file; until 2.32 strings were stored one by one; since 2.33 they share their ends, and
//! extensions follow them. Every loader since glibc 2.2 takes all three, and so does [`read`].

mod order;
mod read;
mod strings;
#[cfg(test)]
mod tests;
mod write;

pub use self::order::compare_names;
pub use self::read::{CacheContent, Entry, read};
pub use self::write::{Extensions, Layout, Library, encode};

/// Libraries in one cache. The largest images have about 6000.
pub const MAX_LIBRARIES: usize = 65_536;
/// Bytes of a cache that are read. The largest are about 1 MB.
pub const MAX_BYTES: u64 = 4 * 1024 * 1024;

const MAGIC: &[u8; 20] = b"glibc-ld.so.cache1.1";
const HEADER: usize = 48;
const ENTRY: usize = 24;
/// The table of the libc5 days: magic, count, entries of three words.
const OLD_MAGIC: &[u8; 11] = b"ld.so-1.7.0";
const OLD_HEADER: usize = 16;
const OLD_ENTRY: usize = 12;
/// The header flag that tells the byte order: 2 is little endian, 3 is big endian.
const BYTE_ORDER: u8 = if cfg!(target_endian = "big") { 3 } else { 2 };
const EXTENSION_MAGIC: u32 = 0xeaa4_2174;
const TAG_GENERATOR: u32 = 0;
const TAG_HWCAPS: u32 = 1;
/// Set in `hwcap` of a glibc-hwcaps entry. The low 32 bits are then an index, the ten bits at 32 the ISA
/// level.
const HWCAP_EXTENSION: u64 = 1 << 62;

/// Why bytes are no cache, or libraries cannot become one.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum FormatError {
    /// The magic is another one.
    #[error("not a loader cache: expected it to begin with glibc-ld.so.cache1.1 or ld.so-1.7.0")]
    Magic,
    /// The cache was made for a machine of the other byte order.
    #[error("loader cache of another byte order: expected {BYTE_ORDER}, found {found}")]
    ByteOrder {
        /// The header flag.
        found: u8,
    },
    /// Something lies outside the file.
    #[error("malformed loader cache: {what} lies outside the file; run ldconfig in the image")]
    OutOfBounds {
        /// Which part.
        what: &'static str,
    },
    /// Beyond every bound.
    #[error(
        "the loader cache would have {found} {what}, expected at most {limit}; shorten /etc/ld.so.conf in the image"
    )]
    TooLarge {
        /// Of what.
        what: &'static str,
        /// How many.
        found: usize,
        /// What we accept.
        limit: usize,
    },
}
