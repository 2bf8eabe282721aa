//! Tar streams.

use super::error::{damaged, refused};
use super::unpacker::{MAX_STREAM, Unpacker};
use crate::common::error::Result;
use std::io::Read;
use std::path::Path;

/// Maximum size of a global header; git's has 52 bytes.
const MAX_GLOBAL: u64 = 64 << 10;

impl Unpacker<'_> {
    /// Unpacks a tar stream from `origin`.
    pub fn tar(&mut self, stream: impl Read, origin: &Path) -> Result<()> {
        let mut archive = tar::Archive::new(stream.take(MAX_STREAM));
        for entry in archive.entries().map_err(|error| damaged(origin, error))? {
            self.tar_entry(&mut entry.map_err(|error| damaged(origin, error))?, origin)?;
        }
        Ok(())
    }

    fn tar_entry(&mut self, entry: &mut tar::Entry<impl Read>, origin: &Path) -> Result<()> {
        if entry.header().entry_type() == tar::EntryType::XGlobalHeader {
            return global_header(entry, origin);
        }
        let raw = entry.path().map_err(|error| damaged(origin, error))?.into_owned();
        let Some(relative) = self.place(&raw, origin)? else { return Ok(()) };
        let link = |entry: &tar::Entry<_>| {
            let link = entry.link_name().map_err(|error| damaged(origin, error))?;
            Ok::<_, crate::common::error::Error>(link.unwrap_or_default().into_owned())
        };
        match entry.header().entry_type() {
            tar::EntryType::Directory => self.writer.directory(&relative, origin),
            tar::EntryType::Regular | tar::EntryType::Continuous => {
                let mode = entry.header().mode().map_err(|error| damaged(origin, error))?;
                let modified = entry.header().mtime().ok();
                self.writer.file(&relative, entry, mode, modified, origin)
            }
            tar::EntryType::Symlink => {
                let link = link(entry)?;
                self.writer.symlink(&relative, &link, origin)
            }
            tar::EntryType::Link => {
                let link = link(entry)?;
                self.writer.hard_link(&relative, &link, origin)
            }
            other => Err(refused(origin, &raw, &format!("entries of type {other:?} are not unpacked"))),
        }
    }
}

/// Checks a header for all entries after it (pax). git writes one with a comment; other fields
/// would change the entries and are refused.
fn global_header(entry: &mut tar::Entry<impl Read>, origin: &Path) -> Result<()> {
    let mut bytes = Vec::new();
    entry.take(MAX_GLOBAL).read_to_end(&mut bytes).map_err(|error| damaged(origin, error))?;
    for extension in tar::PaxExtensions::new(&bytes) {
        let extension = extension.map_err(|error| damaged(origin, error))?;
        if extension.key_bytes() != b"comment" {
            let what = format!(
                "{:?} for all entries is not supported",
                String::from_utf8_lossy(extension.key_bytes())
            );
            return Err(refused(origin, Path::new("pax_global_header"), &what));
        }
    }
    Ok(())
}
