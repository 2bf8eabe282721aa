//! Reads any initramfs: segments of newc archives, each compressed or not.
//!
//! It reads what the kernel's unpacker would read (init/initramfs.c): zero bytes between segments,
//! archives that begin at a multiple of four bytes, several archives in one compressed stream.
//! Input that the kernel would refuse or read differently is an error. The unpacked result is a
//! [`Tree`]. The file is not trusted: every length is limited, and anything that is not an archive
//! is an error with its offset.

mod archive;
mod blocks;
mod boot_config;
pub mod codec;
mod compression;
pub(crate) mod contents;
pub mod cpio;
mod detect;
pub mod extract;
pub(crate) mod file_type;
mod lz4;
mod lzop;
pub(crate) mod manifest;
mod read;
mod source;
mod strict;
mod take;
#[cfg(test)]
mod tests;
mod tree;
mod uki;
mod unpacker;
mod walk;

pub use self::archive::{Archive, Segment};
pub use self::boot_config::BootConfig;
pub use self::compression::Compression;
pub use self::contents::{Contents, Item, Want, absolute};
pub use self::source::Source;
pub use self::take::{take, take_one};
pub use self::tree::{Left, Remark, Tree};
pub use self::walk::{Content, EntryPosition};
