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
/// Most bytes of a file whose content is kept.
const MAX_FILE: u32 = 512 << 20;

/// What to read in addition to headers and targets of links.
pub struct Want<'a> {
    /// Compute digests of regular files.
    pub digests: bool,
    /// Keep the content of these entries.
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
            // The kernel treats it as a C string.
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
    /// Its position.
    pub place: EntryPosition,
    /// Its header.
    pub entry: Entry,
    /// The target of a symbolic link.
    pub target: Option<Vec<u8>>,
    /// SHA-256 of a regular file's content, lower-case hex, if requested.
    pub sha256: Option<String>,
    /// Content, if requested.
    pub content: Option<Vec<u8>>,
}

/// The contents of an image.
pub struct Contents {
    /// Its segments.
    pub segments: Vec<Segment>,
    /// Its entries, in order.
    pub items: Vec<Item>,
    /// The boot configuration, which the kernel strips before unpacking.
    pub boot_config: Option<BootConfig>,
}

/// The absolute path for a name in an archive, without empty and `.` parts. `..` is kept; the
/// caller must refuse it.
pub fn absolute(name: &[u8]) -> Vec<u8> {
    let mut path = Vec::with_capacity(name.len() + 1);
    for part in name.split(|byte| *byte == b'/').filter(|part| !part.is_empty() && *part != b".") {
        path.push(b'/');
        path.extend_from_slice(part);
    }
    if path.is_empty() { b"/".to_vec() } else { path }
}
