//! The newc cpio format (`070701`, and `070702` with checksums), as the kernel's initramfs unpacker reads it.
//!
//! Source: Documentation/driver-api/early-userspace/buffer-format.rst in the kernel. What is written for an image of
//! ours is only what an initramfs needs: directories, regular files, symbolic links and device nodes, owner root,
//! time 0, so that equal input gives equal bytes. What is read may be anything.

mod read;
#[cfg(test)]
mod tests;

pub use self::read::Reader;
use std::borrow::Cow;
use std::io::{self, Read, Write};

/// How an archive begins.
pub const MAGIC: &[u8; 6] = b"070701";
/// How an archive begins whose files have checksums.
pub const MAGIC_CHECKSUM: &[u8; 6] = b"070702";
const TRAILER: &[u8] = b"TRAILER!!!";
const HEADER: usize = 110;
/// Names longer than this are refused by the reader (the kernel's own limit is `PATH_MAX`).
const MAX_NAME: u32 = 4096;

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
    /// Path as the archive has it: bytes of any kind but NUL, with or without a leading slash.
    pub name: Vec<u8>,
    /// Inode number: entries of one archive with the same one, and the same [`Entry::origin`], are one file.
    pub inode: u32,
    /// Type and permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Number of hard links; where there are several, one of them, usually the last, has the content.
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
    /// The name as text, with replacement characters where it is none.
    pub fn text(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(&self.name)
    }

    /// The type bits of the mode, one of [`kind`] in a sound archive.
    pub fn kind(&self) -> u32 {
        self.mode & kind::MASK
    }
}

/// Bytes that an entry takes in an archive, its content included.
pub fn entry_bytes(name: &str, size: u64) -> u64 {
    let header = (HEADER + name.trim_start_matches('/').len() + 1).next_multiple_of(4) as u64;
    header + size.next_multiple_of(4)
}

/// Bytes of a whole archive whose entries take so many.
pub fn archive_bytes(entries: u64) -> u64 {
    (entries + (HEADER + TRAILER.len() + 1) as u64).next_multiple_of(512)
}

/// Writes an archive entry by entry.
pub struct Writer<W: Write> {
    out: W,
    next_inode: u32,
    written: u64,
}

impl<W: Write> Writer<W> {
    /// An archive that goes to `out`.
    pub fn new(out: W) -> Self {
        Self { out, next_inode: 1, written: 0 }
    }

    /// A directory. Parents must have been written before, or the kernel drops the entry in silence.
    pub fn directory(&mut self, path: &str, permissions: u32) -> io::Result<()> {
        let entry = Entry { mode: kind::DIRECTORY | permissions, links: 2, ..Entry::default() };
        self.numbered(path, entry, &mut io::empty())
    }

    /// A regular file of exactly `size` bytes, read from `content`.
    pub fn file(
        &mut self,
        path: &str,
        permissions: u32,
        size: u64,
        content: &mut dyn Read,
    ) -> io::Result<()> {
        let size = u32::try_from(size).map_err(|_| {
            io::Error::other(format!("{path} has {size} bytes; a file in an initramfs must be below 4 GiB"))
        })?;
        self.numbered(path, Entry { mode: kind::FILE | permissions, size, ..Entry::default() }, content)
    }

    /// A symbolic link.
    pub fn link(&mut self, path: &str, target: &str) -> io::Result<()> {
        let size = u32::try_from(target.len()).map_err(|_| io::Error::other("link target is too long"))?;
        let entry = Entry { mode: kind::LINK | 0o777, size, ..Entry::default() };
        self.numbered(path, entry, &mut target.as_bytes())
    }

    /// A character device.
    pub fn character(&mut self, path: &str, permissions: u32, major: u32, minor: u32) -> io::Result<()> {
        let device = (major, minor);
        let entry = Entry { mode: kind::CHARACTER | permissions, device, ..Entry::default() };
        self.numbered(path, entry, &mut io::empty())
    }

    /// Ends the archive, padded to 512 bytes as other tools do, and gives the output back.
    pub fn finish(mut self) -> io::Result<W> {
        self.entry(&Entry { name: TRAILER.to_vec(), links: 1, ..Entry::default() }, &mut io::empty())?;
        let rest = usize::try_from(self.written % 512).expect("below 512");
        if rest > 0 {
            self.put(&[0; 512][rest..])?;
        }
        Ok(self.out)
    }

    /// The next entry of an archive of ours.
    fn numbered(&mut self, path: &str, mut entry: Entry, content: &mut dyn Read) -> io::Result<()> {
        entry.name = path.trim_start_matches('/').as_bytes().to_vec();
        entry.inode = self.next_inode;
        entry.links = entry.links.max(1);
        self.next_inode += 1;
        self.entry(&entry, content)
    }

    /// Any entry, as it is: its size must be that of `content`.
    pub fn entry(&mut self, entry: &Entry, content: &mut dyn Read) -> io::Result<()> {
        let name_size =
            u32::try_from(entry.name.len() + 1).map_err(|_| io::Error::other("name is too long"))?;
        let Entry { inode, mode, uid, gid, links, mtime, size, origin, device, .. } = *entry;
        let checksum = entry.checksum.unwrap_or_default();
        let fields = [
            inode, mode, uid, gid, links, mtime, size, origin.0, origin.1, device.0, device.1, name_size,
            checksum,
        ];
        let mut header = Vec::with_capacity(HEADER + entry.name.len() + 4);
        header.extend_from_slice(if entry.checksum.is_some() { MAGIC_CHECKSUM } else { MAGIC });
        for field in fields {
            header.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        header.extend_from_slice(&entry.name);
        header.push(0);
        self.put(&header)?;
        self.pad()?;
        let copied = io::copy(&mut content.take(u64::from(size)), &mut Counted(self))?;
        if copied != u64::from(size) {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                format!(
                    "{}: expected {size} bytes, found {copied}; it changed while it was packed",
                    entry.text()
                ),
            ));
        }
        self.pad()
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.out.write_all(bytes)?;
        self.written += bytes.len() as u64;
        Ok(())
    }

    fn pad(&mut self) -> io::Result<()> {
        let rest = usize::try_from(self.written % 4).expect("below 4");
        if rest > 0 { self.put(&[0; 4][rest..]) } else { Ok(()) }
    }
}

struct Counted<'a, W: Write>(&'a mut Writer<W>);

impl<W: Write> Write for Counted<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.put(bytes)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.out.flush()
    }
}
