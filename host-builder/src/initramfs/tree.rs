//! The files of an image after the kernel has unpacked all of it.

use super::contents::Item;
use super::cpio::{Entry, kind};
use serde::Serialize;
use std::collections::BTreeMap;

/// Permission bits.
const PERMISSIONS: u32 = 0o7777;

/// One path of what is left.
#[derive(Debug, Clone, Copy)]
pub struct Left<'a> {
    /// The entry that mode, owner and time come from.
    pub entry: &'a Entry,
    /// Kind, size and content come from this one, which is another for hard links.
    pub item: &'a Item,
    /// Number of that one, from 0.
    pub number: usize,
    /// The same for all names of one file.
    pub file: usize,
}

impl Left<'_> {
    /// What it is, of [`kind`].
    pub fn kind(&self) -> u32 {
        self.item.entry.kind()
    }

    /// Permission bits.
    pub fn mode(&self) -> u32 {
        self.entry.mode & PERMISSIONS
    }

    /// Bytes of a regular file.
    pub fn bytes(&self) -> u64 {
        if self.kind() == kind::FILE { u64::from(self.item.entry.size) } else { 0 }
    }
}

/// An entry that is not unpacked as it says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Remark {
    /// Number of the entry, from 0.
    #[serde(skip)]
    pub item: usize,
    /// What the kernel makes of it, to be read behind its name.
    pub what: String,
}

/// All that is left, and what is to be said of it.
#[derive(Debug, Default)]
pub struct Tree<'a> {
    /// By absolute path, without links in it but its last part.
    pub paths: BTreeMap<Vec<u8>, Left<'a>>,
    /// In the order of the entries.
    pub remarks: Vec<Remark>,
}
