//! Bounded reads at given places, so that no header can make us read or allocate more than a fixed amount.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::{ElfError, MAX_STRING};

/// Something that can be read at any offset: a file, or bytes in memory.
pub trait ReadAt {
    /// Reads into `buf` from `offset`. Returns how many bytes were read, 0 at the end.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Size in bytes.
    fn size(&self) -> io::Result<u64>;
}

impl ReadAt for File {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        FileExt::read_at(self, buf, offset)
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }
}

impl ReadAt for [u8] {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let rest = usize::try_from(offset).ok().and_then(|at| self.get(at..)).unwrap_or_default();
        let len = rest.len().min(buf.len());
        buf[..len].copy_from_slice(&rest[..len]);
        Ok(len)
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.len() as u64)
    }
}

impl ReadAt for Vec<u8> {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.as_slice().read_at(buf, offset)
    }

    fn size(&self) -> io::Result<u64> {
        self.as_slice().size()
    }
}

impl<T: ReadAt + ?Sized> ReadAt for &T {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        (**self).read_at(buf, offset)
    }

    fn size(&self) -> io::Result<u64> {
        (**self).size()
    }
}

/// A [`ReadAt`] with its size, and errors that say which part was being read.
pub(super) struct Source<'a, S: ReadAt + ?Sized> {
    src: &'a S,
    size: u64,
}

impl<'a, S: ReadAt + ?Sized> Source<'a, S> {
    pub(super) fn new(src: &'a S) -> Result<Self, ElfError> {
        let size = src.size().map_err(|source| ElfError::Io { what: "the file size", source })?;
        Ok(Self { src, size })
    }

    pub(super) fn size(&self) -> u64 {
        self.size
    }

    /// At most `len` bytes: fewer where the file ends. The caller bounds `len`.
    pub(super) fn up_to(&self, what: &'static str, offset: u64, len: u64) -> Result<Vec<u8>, ElfError> {
        let len = len.min(self.size.saturating_sub(offset));
        let len = usize::try_from(len).unwrap_or_default();
        let mut buf = vec![0; len];
        let mut filled = 0;
        while filled < len {
            match self.src.read_at(&mut buf[filled..], offset + filled as u64) {
                Ok(0) => break,
                Ok(n) => filled += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => return Err(ElfError::Io { what, source }),
            }
        }
        buf.truncate(filled);
        Ok(buf)
    }

    /// Exactly `len` bytes. The caller bounds `len`.
    pub(super) fn exactly(&self, what: &'static str, offset: u64, len: u64) -> Result<Vec<u8>, ElfError> {
        let bytes = self.up_to(what, offset, len)?;
        if (bytes.len() as u64) < len {
            return Err(ElfError::Truncated { what, offset, len, size: self.size });
        }
        Ok(bytes)
    }

    /// The NUL-terminated string at `offset`, without its NUL.
    pub(super) fn string(&self, what: &'static str, offset: u64) -> Result<Vec<u8>, ElfError> {
        // Nearly every name fits in the first read.
        for len in [128, MAX_STRING] {
            let mut bytes = self.up_to(what, offset, len)?;
            if let Some(end) = bytes.iter().position(|b| *b == 0) {
                bytes.truncate(end);
                return Ok(bytes);
            }
            if (bytes.len() as u64) < len {
                return Err(ElfError::Truncated {
                    what,
                    offset,
                    len: bytes.len() as u64 + 1,
                    size: self.size,
                });
            }
        }
        Err(ElfError::TooLarge { what, found: MAX_STRING + 1, limit: MAX_STRING })
    }
}
