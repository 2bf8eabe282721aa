//! All entries of an image in memory, with the requested contents.

use super::archive::Segment;
use super::boot_config::BootConfig;
use super::cpio::{Entry, kind};
use super::walk::{Bounds, Content, EntryPosition, MAX_KEPT, add};
use crate::common::digest::Hasher;
use crate::common::error::Result;
use std::path::Path;

/// Longest target of a symbolic link (`PATH_MAX`).
const MAX_TARGET: u32 = 4096;
/// Most bytes of a file that is kept.
const MAX_FILE: u32 = 512 << 20;

/// What to read in addition to headers and targets of links.
pub struct Want<'a> {
    /// Digests of regular files.
    pub digests: bool,
    /// The content of these.
    pub keep: &'a (dyn Fn(&Entry) -> bool + Sync),
}

impl Want<'_> {
    /// Headers and targets of links.
    pub const NAMES: Want<'static> = Want { digests: false, keep: &|_| false };

    pub(crate) fn item(
        &self,
        place: EntryPosition,
        entry: &Entry,
        content: &mut Content,
        bounds: &Bounds,
    ) -> Result<Item> {
        let mut item = Item { place, entry: entry.clone(), target: None, sha256: None, content: None };
        let is_file = entry.kind() == kind::FILE;
        if entry.kind() == kind::LINK {
            let mut target = content.bytes(entry, MAX_TARGET)?;
            // It is a C string to the kernel.
            target.truncate(target.iter().position(|byte| *byte == 0).unwrap_or(target.len()));
            item.target = Some(target);
        } else if is_file && (self.keep)(entry) {
            add(&bounds.kept, u64::from(entry.size), MAX_KEPT, "bytes of contents to keep")
                .map_err(|error| content.fault(entry, &error))?;
            let bytes = content.bytes(entry, MAX_FILE)?;
            item.sha256 = self.digests.then(|| crate::common::digest::sha256(&bytes));
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
    pub place: EntryPosition,
    /// Its header.
    pub entry: Entry,
    /// What a symbolic link says.
    pub target: Option<Vec<u8>>,
    /// SHA-256 of a regular file's content, lower-case hex, when it was wanted.
    pub sha256: Option<String>,
    /// Content, when it was wanted.
    pub content: Option<Vec<u8>>,
}

/// The contents of an image.
pub struct Contents {
    /// Its segments.
    pub segments: Vec<Segment>,
    /// Its entries, in order.
    pub items: Vec<Item>,
    /// What the kernel strips from its end before unpacking.
    pub boot_config: Option<BootConfig>,
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
