//! The header of an entry, and what readers and writers of the format share.

use std::borrow::Cow;

/// First bytes of an archive.
pub const MAGIC: &[u8; 6] = b"070701";
/// First bytes of an archive with checksums.
pub const MAGIC_CHECKSUM: &[u8; 6] = b"070702";
pub(super) const TRAILER: &[u8] = b"TRAILER!!!";
pub(super) const HEADER: usize = 110;
/// Names longer than this are refused by the reader (the kernel's own limit is `PATH_MAX`).
pub(super) const MAX_NAME: u32 = 4096;

/// File type bits, as in `st_mode`.
pub mod kind {
    /// Directory.
    pub const DIRECTORY: u32 = 0o040_000;
    /// Regular file.
    pub const FILE: u32 = 0o100_000;
    /// Symbolic link.
    pub const LINK: u32 = 0o120_000;
    /// Character device.
    pub const CHARACTER: u32 = 0o020_000;
    /// Block device.
    pub const BLOCK: u32 = 0o060_000;
    /// Named pipe.
    pub const FIFO: u32 = 0o010_000;
    /// Socket.
    pub const SOCKET: u32 = 0o140_000;
    /// The mask of the bits above.
    pub const MASK: u32 = 0o170_000;
}

/// Header of one entry.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Entry {
    /// Path as in the archive: bytes of any kind except NUL, with or without a leading slash.
    pub name: Vec<u8>,
    /// Inode number. Entries of one archive with the same inode number and the same
    /// [`Entry::origin`] are one file.
    pub inode: u32,
    /// Type and permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Number of hard links. With several, one of them, usually the last, has the content.
    pub links: u32,
    /// Time of the last change, seconds since 1970.
    pub mtime: u32,
    /// Bytes of content that follow.
    pub size: u32,
    /// Major and minor of the file system that it came from.
    pub origin: (u32, u32),
    /// Major and minor, for device nodes.
    pub device: (u32, u32),
    /// Sum of the content's bytes, in archives that have them.
    pub checksum: Option<u32>,
}

impl Entry {
    /// The name as text. Invalid UTF-8 is replaced.
    pub fn text(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(&self.name)
    }

    /// The type bits of the mode. In a valid archive, they are one of [`kind`].
    pub fn kind(&self) -> u32 {
        self.mode & kind::MASK
    }
}

/// Size of an entry in an archive, including its content.
pub fn entry_bytes(name: &str, size: u64) -> u64 {
    let header = (HEADER + name.trim_start_matches('/').len() + 1).next_multiple_of(4) as u64;
    header + size.next_multiple_of(4)
}

/// Size of a complete archive with entries of this size.
pub fn archive_bytes(entries: u64) -> u64 {
    (entries + (HEADER + TRAILER.len() + 1) as u64).next_multiple_of(512)
}
