//! All entries of an image in memory, with what is wanted of their contents.

use super::walk::{Bounds, MAX_KEPT};
use super::{Content, Place, Segment, add};
use crate::cache::Hasher;
use crate::error::Result;
use image::cpio::{Entry, kind};
use std::collections::{BTreeMap, HashMap};
use std::path::Path;

/// Longest target of a symbolic link (`PATH_MAX`).
const MAX_TARGET: u32 = 4096;
/// A file that is kept may have so many bytes.
const MAX_FILE: u32 = 512 << 20;

/// What is wanted beside the headers and the targets of links.
pub struct Want<'a> {
    /// Digests of regular files.
    pub digests: bool,
    /// The content of these.
    pub keep: &'a (dyn Fn(&Entry) -> bool + Sync),
}

impl Want<'_> {
    /// Headers and targets of links.
    pub const NAMES: Want<'static> = Want { digests: false, keep: &|_| false };

    pub(super) fn item(
        &self,
        place: Place,
        entry: &Entry,
        content: &mut Content,
        bounds: &Bounds,
    ) -> Result<Item> {
        let mut item = Item { place, entry: entry.clone(), target: None, sha256: None, content: None };
        let is_file = entry.kind() == kind::FILE;
        if entry.kind() == kind::LINK {
            item.target = Some(content.bytes(entry, MAX_TARGET)?);
        } else if is_file && (self.keep)(entry) {
            add(&bounds.kept, u64::from(entry.size), MAX_KEPT, "bytes of contents to keep")
                .map_err(|error| content.fault(entry, &error))?;
            let bytes = content.bytes(entry, MAX_FILE)?;
            item.sha256 = self.digests.then(|| crate::cache::sha256(&bytes));
            item.content = Some(bytes);
        } else if is_file && self.digests {
            let mut hasher = Hasher::default();
            content.copy(entry, &mut hasher, Path::new("a digest"))?;
            item.sha256 = Some(hasher.hex());
        }
        Ok(item)
    }
}

/// One entry.
#[derive(Debug, Clone)]
pub struct Item {
    /// Where it stands.
    pub place: Place,
    /// Its header.
    pub entry: Entry,
    /// What a symbolic link says.
    pub target: Option<Vec<u8>>,
    /// SHA-256 of a regular file's content, lower-case hex, when it was wanted.
    pub sha256: Option<String>,
    /// Content, when it was wanted.
    pub content: Option<Vec<u8>>,
}

/// Everything that is in an image.
pub struct Contents {
    /// Its segments.
    pub segments: Vec<Segment>,
    /// Its entries, in order.
    pub items: Vec<Item>,
}

impl Contents {
    /// What the kernel leaves when it has unpacked everything: by absolute path, the last entry of that path. A
    /// regular file that is a hard link comes with the entry that has the content.
    pub fn tree(&self) -> BTreeMap<Vec<u8>, &Item> {
        // The entry of each inode that has the content: the last one.
        let mut contents = HashMap::new();
        let inode = |item: &Item| (item.place, item.entry.origin, item.entry.inode);
        let linked = |item: &&Item| item.entry.links > 1 && item.entry.kind() == kind::FILE;
        for item in self.items.iter().filter(linked).filter(|item| item.entry.size > 0) {
            contents.insert(inode(item), item);
        }
        let resolved = self.items.iter().map(|item| {
            let content = if linked(&item) { contents.get(&inode(item)).copied() } else { None };
            (absolute(&item.entry.name), content.unwrap_or(item))
        });
        resolved.collect()
    }
}

/// The absolute path that a name of an archive means, without empty and `.` parts. `..` stays: it is for the caller to
/// refuse.
pub fn absolute(name: &[u8]) -> Vec<u8> {
    let mut path = Vec::with_capacity(name.len() + 1);
    for part in name.split(|byte| *byte == b'/').filter(|part| !part.is_empty() && *part != b".") {
        path.push(b'/');
        path.extend_from_slice(part);
    }
    if path.is_empty() { b"/".to_vec() } else { path }
}
