//! The files of an image after the kernel has unpacked all of it.

use super::contents::Item;
use super::cpio::{Entry, kind};
use serde::Serialize;
use std::collections::BTreeMap;

/// Permission bits.
const PERMISSIONS: u32 = 0o7777;

/// A path in the result.
#[derive(Debug, Clone, Copy)]
pub struct Left<'a> {
    /// The entry with its mode, owner and time.
    pub entry: &'a Entry,
    /// The entry with its kind, size and content. With hard links, this may be another entry.
    pub item: &'a Item,
    /// Number of the entry with the content, from 0.
    pub number: usize,
    /// Number of the file. All names of one file have the same number.
    pub file: usize,
}

impl Left<'_> {
    /// Its kind, one of [`kind`].
    pub fn kind(&self) -> u32 {
        self.item.entry.kind()
    }

    /// Permission bits.
    pub fn mode(&self) -> u32 {
        self.entry.mode & PERMISSIONS
    }

    /// Size of a regular file in bytes; else 0.
    pub fn bytes(&self) -> u64 {
        if self.kind() == kind::FILE { u64::from(self.item.entry.size) } else { 0 }
    }
}

/// A note on an entry that is not unpacked as stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Remark {
    /// Number of the entry, from 0.
    #[serde(skip)]
    pub item: usize,
    /// What the kernel does with it, in words that follow its name.
    pub what: String,
}

/// The result of unpacking, and the notes on it.
#[derive(Debug, Default)]
pub struct Tree<'a> {
    /// By absolute path, without links except its last part.
    pub paths: BTreeMap<Vec<u8>, Left<'a>>,
    /// In the order of the entries.
    pub remarks: Vec<Remark>,
}
