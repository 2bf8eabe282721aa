//! Reads newc archives from any source.

use super::format::{Entry, HEADER, MAGIC, MAGIC_CHECKSUM, MAX_NAME, TRAILER, kind};
use std::io::{self, Read};

/// Reads an archive entry by entry.
pub struct Reader<R: Read> {
    input: R,
    position: u64,
    content_left: u64,
    checksum: Option<u32>,
    sum: u32,
}

impl<R: Read> Reader<R> {
    /// Reads an archive from `input`.
    pub fn new(input: R) -> Self {
        Self { input, position: 0, content_left: 0, checksum: None, sum: 0 }
    }

    /// Number of bytes of the archive that were read or skipped.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// The next entry, or `None` after the trailer. Content that was not read is skipped.
    pub fn next_entry(&mut self) -> io::Result<Option<Entry>> {
        self.end_content()?;
        let mut header = [0; HEADER];
        self.fill(&mut header)?;
        let with_checksum = &header[..6] == MAGIC_CHECKSUM;
        if !with_checksum && &header[..6] != MAGIC {
            return Err(invalid("expected a newc header (070701 or 070702)"));
        }
        let mut fields = [0; 13];
        for (field, digits) in fields.iter_mut().zip(header[6..].chunks_exact(8)) {
            *field = number(digits)?;
        }
        let [inode, mode, uid, gid, links, mtime, size, from_major, from_minor, major, minor, name_size, sum] =
            fields;
        if name_size == 0 || name_size > MAX_NAME {
            return Err(invalid("name length is out of range"));
        }
        let mut name = vec![0; name_size as usize];
        self.fill(&mut name)?;
        self.align()?;
        // Some tools pad content with additional NULs after the name. The kernel stops at the first
        // NUL.
        let Some(end) = name.iter().position(|byte| *byte == 0).filter(|_| name.last() == Some(&0)) else {
            return Err(invalid("name is not NUL-terminated"));
        };
        if name[end..].iter().any(|byte| *byte != 0) {
            return Err(invalid("there is hidden data after the end of a name"));
        }
        name.truncate(end);
        let of_kind = mode & kind::MASK;
        if size > 0 && !matches!(of_kind, kind::FILE | kind::LINK) {
            return Err(invalid(
                "an entry that is neither file nor link has content: the kernel would lose its position after it",
            ));
        }
        self.content_left = u64::from(size);
        let checksum = with_checksum.then_some(sum);
        (self.checksum, self.sum) = (checksum, 0);
        // For the kernel, a link with this name is an ordinary link.
        if name == TRAILER && of_kind != kind::LINK {
            self.end_content()?;
            return Ok(None);
        }
        let (origin, device) = ((from_major, from_minor), (major, minor));
        let entry = Entry { name, inode, mode, uid, gid, links, mtime, size, origin, device, checksum };
        Ok(Some(entry))
    }

    /// Skips the content that was not read with `skip`, which receives the input and the number of
    /// bytes. Used for inputs that can skip faster than read.
    pub fn skip_content(&mut self, skip: impl FnOnce(&mut R, u64) -> io::Result<()>) -> io::Result<()> {
        if self.content_left > 0 {
            skip(&mut self.input, self.content_left)?;
            self.position += self.content_left;
            self.content_left = 0;
            self.checksum = None;
        }
        Ok(())
    }

    /// The input, at its current position.
    pub fn into_inner(self) -> R {
        self.input
    }

    fn end_content(&mut self) -> io::Result<()> {
        self.skip_content(|input, left| match io::copy(&mut input.take(left), &mut io::sink())? {
            copied if copied == left => Ok(()),
            _ => Err(io::ErrorKind::UnexpectedEof.into()),
        })?;
        self.align()
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

/// Reads the content of the entry that [`Reader::next_entry`] returned last. If its checksum
/// differs, the end of the content is an error.
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
        if let Some(checksum) = self.checksum {
            self.sum = buffer[..got].iter().fold(self.sum, |sum, byte| sum.wrapping_add(u32::from(*byte)));
            if self.content_left == 0 && self.sum != checksum {
                return Err(invalid("the content does not match its checksum"));
            }
        }
        Ok(got)
    }
}

fn number(digits: &[u8]) -> io::Result<u32> {
    digits.iter().try_fold(0, |value, digit| {
        let digit =
            char::from(*digit).to_digit(16).ok_or_else(|| invalid("header field is not hexadecimal"))?;
        Ok(value << 4 | digit)
    })
}

fn invalid(message: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, message)
}
