//! Bounded reads at given places, so that no header can make us read or allocate more than a fixed amount.

use std::cell::RefCell;
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

/// How many bytes of the beginning are read at once: the headers and the notes of most libraries.
const FIRST: u64 = 4096;
/// How many bytes are read at once elsewhere, and how many of them come before what is asked for: the strings of a library are close
/// together, in any order.
const PART: u64 = 1024;
const BEFORE: u64 = 256;

/// Bytes that have been read.
#[derive(Default)]
struct Window {
    offset: u64,
    bytes: Vec<u8>,
}

impl Window {
    /// Returns `len` bytes at an offset, if they have been read.
    fn get(&self, offset: u64, len: usize) -> Option<&[u8]> {
        let start = usize::try_from(offset.checked_sub(self.offset)?).ok()?;
        self.bytes.get(start..start.checked_add(len)?)
    }
}

/// A [`ReadAt`] with its size, and errors that say which part was being read.
pub(super) struct Source<'a, S: ReadAt + ?Sized> {
    src: &'a S,
    size: u64,
    /// The beginning, and what was read last elsewhere.
    windows: RefCell<[Window; 2]>,
}

impl<'a, S: ReadAt + ?Sized> Source<'a, S> {
    pub(super) fn new(src: &'a S) -> Result<Self, ElfError> {
        let size = src.size().map_err(|source| ElfError::Io { what: "the file size", source })?;
        Ok(Self { src, size, windows: RefCell::default() })
    }

    pub(super) fn size(&self) -> u64 {
        self.size
    }

    /// At most `len` bytes: fewer where the file ends. The caller bounds `len`.
    pub(super) fn up_to(&self, what: &'static str, offset: u64, len: u64) -> Result<Vec<u8>, ElfError> {
        let len = len.min(self.size.saturating_sub(offset));
        let count = usize::try_from(len).unwrap_or_default();
        let mut windows = self.windows.borrow_mut();
        if let Some(bytes) = windows.iter().find_map(|window| window.get(offset, count)) {
            return Ok(bytes.to_vec());
        }
        let (window, start, most) = if offset + len <= FIRST {
            (0, 0, FIRST)
        } else if len <= PART - BEFORE {
            (1, offset.saturating_sub(BEFORE), PART)
        } else {
            return self.read(what, offset, len);
        };
        windows[window] = Window { offset: start, bytes: self.read(what, start, most)? };
        if let Some(bytes) = windows[window].get(offset, count) {
            return Ok(bytes.to_vec());
        }
        // The file has become shorter.
        self.read(what, offset, len)
    }

    fn read(&self, what: &'static str, offset: u64, len: u64) -> Result<Vec<u8>, ElfError> {
        let len = usize::try_from(len.min(self.size.saturating_sub(offset))).unwrap_or_default();
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
