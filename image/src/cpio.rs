//! The newc cpio format (`070701`), as the kernel's initramfs unpacker reads it.
//!
//! Source: Documentation/driver-api/early-userspace/buffer-format.rst in the kernel. Only what an initramfs needs:
//! directories, regular files, symbolic links and device nodes, owner root, time 0, so that equal input gives equal
//! bytes.

use std::io::{self, Read, Write};

const MAGIC: &[u8; 6] = b"070701";
const TRAILER: &str = "TRAILER!!!";
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
    /// The mask of the bits above.
    pub const MASK: u32 = 0o170_000;
}

/// Header of one entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Path without a leading slash.
    pub name: String,
    /// Type and permission bits.
    pub mode: u32,
    /// Bytes of content that follow.
    pub size: u32,
    /// Major and minor, for device nodes.
    pub device: (u32, u32),
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
        self.entry(path, kind::DIRECTORY | permissions, 2, (0, 0), 0, &mut io::empty())
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
        self.entry(path, kind::FILE | permissions, 1, (0, 0), size, content)
    }

    /// A symbolic link.
    pub fn link(&mut self, path: &str, target: &str) -> io::Result<()> {
        let size = u32::try_from(target.len()).map_err(|_| io::Error::other("link target is too long"))?;
        self.entry(path, kind::LINK | 0o777, 1, (0, 0), size, &mut target.as_bytes())
    }

    /// A character device.
    pub fn character(&mut self, path: &str, permissions: u32, major: u32, minor: u32) -> io::Result<()> {
        self.entry(path, kind::CHARACTER | permissions, 1, (major, minor), 0, &mut io::empty())
    }

    /// Ends the archive, padded to 512 bytes as other tools do, and gives the output back.
    pub fn finish(mut self) -> io::Result<W> {
        self.next_inode = 0;
        self.entry(TRAILER, 0, 1, (0, 0), 0, &mut io::empty())?;
        let rest = usize::try_from(self.written % 512).expect("below 512");
        if rest > 0 {
            self.put(&[0; 512][rest..])?;
        }
        Ok(self.out)
    }

    fn entry(
        &mut self,
        path: &str,
        mode: u32,
        links: u32,
        device: (u32, u32),
        size: u32,
        content: &mut dyn Read,
    ) -> io::Result<()> {
        let name = path.trim_start_matches('/');
        let name_size = u32::try_from(name.len() + 1).map_err(|_| io::Error::other("name is too long"))?;
        let inode = self.next_inode;
        self.next_inode += 1;
        let fields = [inode, mode, 0, 0, links, 0, size, 0, 0, device.0, device.1, name_size, 0];
        let mut header = Vec::with_capacity(HEADER + name.len() + 4);
        header.extend_from_slice(MAGIC);
        for field in fields {
            header.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        header.extend_from_slice(name.as_bytes());
        header.push(0);
        self.put(&header)?;
        self.pad()?;
        let copied = io::copy(&mut content.take(u64::from(size)), &mut Counted(self))?;
        if copied != u64::from(size) {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                format!("{path}: expected {size} bytes, found {copied}; it changed while it was packed"),
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

/// Reads an archive entry by entry.
pub struct Reader<R: Read> {
    input: R,
    position: u64,
    content_left: u64,
}

impl<R: Read> Reader<R> {
    /// An archive that comes from `input`.
    pub fn new(input: R) -> Self {
        Self { input, position: 0, content_left: 0 }
    }

    /// The next entry, or `None` at the trailer. Content that was not read is skipped.
    pub fn next_entry(&mut self) -> io::Result<Option<Entry>> {
        let left = self.content_left;
        io::copy(&mut (&mut *self).take(left), &mut io::sink())?;
        self.align()?;
        let mut header = [0; HEADER];
        self.fill(&mut header)?;
        if &header[..6] != MAGIC {
            return Err(invalid("expected a newc header (070701)"));
        }
        let field = |index: usize| -> io::Result<u32> {
            let digits = &header[6 + index * 8..14 + index * 8];
            let text = std::str::from_utf8(digits).map_err(|_| invalid("header field is not hexadecimal"))?;
            u32::from_str_radix(text, 16).map_err(|_| invalid("header field is not hexadecimal"))
        };
        let (mode, size, name_size) = (field(1)?, field(6)?, field(11)?);
        let device = (field(9)?, field(10)?);
        if name_size == 0 || name_size > MAX_NAME {
            return Err(invalid("name length is out of range"));
        }
        let mut name = vec![0; name_size as usize];
        self.fill(&mut name)?;
        self.align()?;
        if name.pop() != Some(0) {
            return Err(invalid("name is not NUL-terminated"));
        }
        let name = String::from_utf8(name).map_err(|_| invalid("name is not UTF-8"))?;
        self.content_left = u64::from(size);
        Ok((name != TRAILER).then_some(Entry { name, mode, size, device }))
    }

    /// What it read from, wherever that stands.
    pub fn into_inner(self) -> R {
        self.input
    }

    fn fill(&mut self, buffer: &mut [u8]) -> io::Result<()> {
        self.input.read_exact(buffer)?;
        self.position += buffer.len() as u64;
        Ok(())
    }

    fn align(&mut self) -> io::Result<()> {
        let rest = usize::try_from(self.position % 4).expect("below 4");
        if rest > 0 { self.fill(&mut [0; 4][rest..]) } else { Ok(()) }
    }
}

/// Reads the content of the entry that [`Reader::next_entry`] returned last.
impl<R: Read> Read for Reader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.content_left).unwrap_or(usize::MAX).min(buffer.len());
        if most == 0 {
            return Ok(0);
        }
        let got = self.input.read(&mut buffer[..most])?;
        if got == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.position += got as u64;
        self.content_left -= got as u64;
        Ok(got)
    }
}

fn invalid(message: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn archive() -> Vec<u8> {
        let mut writer = Writer::new(Vec::new());
        writer.directory("/dev", 0o755).unwrap();
        writer.character("/dev/console", 0o600, 5, 1).unwrap();
        writer.file("/init", 0o755, 5, &mut &b"hello"[..]).unwrap();
        writer.link("/bin", "usr/bin").unwrap();
        writer.finish().unwrap()
    }

    #[test]
    fn what_is_written_is_read_back() {
        let bytes = archive();
        assert_eq!(bytes.len() % 512, 0);
        let mut reader = Reader::new(&bytes[..]);
        assert_eq!(reader.next_entry().unwrap().unwrap().name, "dev");
        assert_eq!(reader.next_entry().unwrap().unwrap().device, (5, 1));
        let init = reader.next_entry().unwrap().unwrap();
        assert_eq!((init.name.as_str(), init.mode, init.size), ("init", 0o100_755, 5));
        let mut content = String::new();
        reader.read_to_string(&mut content).unwrap();
        assert_eq!(content, "hello");
        assert_eq!(reader.next_entry().unwrap().unwrap().mode, 0o120_777);
        assert!(reader.next_entry().unwrap().is_none());
    }

    #[test]
    fn a_short_source_is_an_error() {
        let mut writer = Writer::new(Vec::new());
        let error = writer.file("/x", 0o644, 9, &mut &b"short"[..]).unwrap_err();
        assert!(error.to_string().contains("expected 9 bytes, found 5"), "{error}");
    }

    #[test]
    fn every_truncation_is_an_error_and_no_panic() {
        let bytes = archive();
        for end in 0..bytes.len() - 512 {
            let mut reader = Reader::new(&bytes[..end]);
            while let Ok(Some(_)) = reader.next_entry() {}
        }
    }
}
