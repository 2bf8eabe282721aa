//! Reads parts of a library file, few times.

use std::borrow::Cow;
use std::cell::RefCell;
use std::fs::File;

use crate::confined_fs::read_full_at;

/// Maximum length of one name in bytes: `PATH_MAX`.
const MAX_NAME: usize = 4096;

/// Room for what is read of one library after the other.
#[derive(Debug)]
pub(super) struct Room {
    first: Vec<u8>,
    strings: RefCell<Strings>,
}

/// A part of a string table, in which the names of a library are close together.
#[derive(Debug, Default)]
struct Strings {
    /// Its offset in the file.
    at: u64,
    bytes: Vec<u8>,
}

/// Size in bytes of the part of a file that is read first. Most of what is looked at is in it.
const FIRST: usize = 4096;
/// Size in bytes of the part of a string table.
const STRINGS: usize = 1024;
/// How many bytes of it come before the first string that is read.
const BEFORE: u64 = 256;

impl Room {
    /// Empty.
    pub fn new() -> Self {
        Self { first: vec![0; FIRST], strings: RefCell::default() }
    }
}

/// A file that goes on with zeros, as its last page does in memory.
pub(super) struct Contents<'a> {
    file: &'a File,
    size: u64,
    /// Its beginning.
    pub first: &'a [u8],
    strings: &'a RefCell<Strings>,
}

impl<'a> Contents<'a> {
    /// Reads the beginning of a file of `size` bytes.
    pub fn open(file: &'a File, size: u64, room: &'a mut Room) -> Option<Self> {
        let read = read_full_at(file, &mut room.first, 0).ok()?;
        room.first[read..].fill(0);
        room.strings.get_mut().bytes.clear();
        Some(Self { file, size, first: &room.first, strings: &room.strings })
    }

    /// Reads `len` bytes.
    pub fn zeroed(&self, offset: u64, len: usize) -> Option<Cow<'a, [u8]>> {
        let start = usize::try_from(offset).ok();
        if let Some(bytes) = start.and_then(|start| self.first.get(start..start.checked_add(len)?)) {
            return Some(Cow::Borrowed(bytes));
        }
        let mut bytes = vec![0; len];
        read_full_at(self.file, &mut bytes, offset).ok()?;
        Some(Cow::Owned(bytes))
    }

    /// `check_ptr` of `ldconfig`: accepts an offset in the file, or at its end.
    pub fn check(&self, offset: u64) -> Option<u64> {
        (offset <= self.size).then_some(offset)
    }

    /// Reads a string up to its NUL.
    pub fn string(&self, offset: u64) -> Option<Vec<u8>> {
        if let Some(string) = string_at(self.first, 0, offset) {
            return Some(string);
        }
        let mut strings = self.strings.borrow_mut();
        if let Some(string) = string_at(&strings.bytes, strings.at, offset) {
            return Some(string);
        }
        strings.at = offset.saturating_sub(BEFORE);
        strings.bytes = self.zeroed(strings.at, STRINGS)?.into_owned();
        let near = string_at(&strings.bytes, strings.at, offset);
        near.or_else(|| string_at(&self.zeroed(offset, MAX_NAME)?, offset, offset))
    }
}

/// Returns the string at an offset of a file, if it ends in these bytes, which are those from `at` on.
fn string_at(bytes: &[u8], at: u64, offset: u64) -> Option<Vec<u8>> {
    let rest = bytes.get(usize::try_from(offset.checked_sub(at)?).ok()?..)?;
    Some(rest[..memchr::memchr(0, rest)?].to_vec())
}
