//! Writes a newc archive.

use super::format::{Entry, HEADER, MAGIC, MAGIC_CHECKSUM, TRAILER, kind};
use std::io::{self, Read, Write};

/// Writes an archive entry by entry.
pub struct Writer<W: Write> {
    out: W,
    next_inode: u32,
    written: u64,
}

impl<W: Write> Writer<W> {
    /// Writes an archive to `out`.
    pub fn new(out: W) -> Self {
        Self { out, next_inode: 1, written: 0 }
    }

    /// Writes a directory. Its parents must be written before, or the kernel silently drops the
    /// entry.
    pub fn directory(&mut self, path: &str, permissions: u32) -> io::Result<()> {
        let entry = Entry { mode: kind::DIRECTORY | permissions, links: 2, ..Entry::default() };
        self.numbered(path, entry, &mut io::empty())
    }

    /// Writes a regular file of exactly `size` bytes, read from `content`.
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

    /// Writes a symbolic link.
    pub fn link(&mut self, path: &str, target: &str) -> io::Result<()> {
        let size = u32::try_from(target.len()).map_err(|_| io::Error::other("link target is too long"))?;
        let entry = Entry { mode: kind::LINK | 0o777, size, ..Entry::default() };
        self.numbered(path, entry, &mut target.as_bytes())
    }

    /// Writes a character device.
    pub fn character(&mut self, path: &str, permissions: u32, major: u32, minor: u32) -> io::Result<()> {
        let device = (major, minor);
        let entry = Entry { mode: kind::CHARACTER | permissions, device, ..Entry::default() };
        self.numbered(path, entry, &mut io::empty())
    }

    /// Ends the archive, padded to 512 bytes as other tools do, and returns the output.
    pub fn finish(mut self) -> io::Result<W> {
        self.entry(&Entry { name: TRAILER.to_vec(), links: 1, ..Entry::default() }, &mut io::empty())?;
        let rest = usize::try_from(self.written % 512).expect("below 512");
        if rest > 0 {
            self.put(&[0; 512][rest..])?;
        }
        Ok(self.out)
    }

    /// Writes an entry with the next inode number.
    fn numbered(&mut self, path: &str, mut entry: Entry, content: &mut dyn Read) -> io::Result<()> {
        entry.name = path.trim_start_matches('/').as_bytes().to_vec();
        entry.inode = self.next_inode;
        entry.links = entry.links.max(1);
        self.next_inode += 1;
        self.entry(&entry, content)
    }

    /// Writes any entry unchanged. Its size must be that of `content`.
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
                    "{}: expected {size} bytes, found {copied}: it changed while it was packed",
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
