//! Zip archives.

use super::error::{damaged, refused};
use super::unpacker::{Unpacker, open};
use crate::common::error::Result;
use std::io::Read;
use std::path::Path;

/// Maximum length of a link target.
const MAX_LINK: u64 = 4096;
/// File type bits of `st_mode`, as zip archives made on Unix carry them.
const TYPE: u32 = 0o170_000;
const REGULAR: u32 = 0o100_000;

impl Unpacker<'_> {
    /// Unpacks a zip archive.
    pub fn zip(&mut self, path: &Path) -> Result<()> {
        let mut archive = zip::ZipArchive::new(open(path)?).map_err(|error| damaged(path, error))?;
        for at in 0..archive.len() {
            let mut entry = archive.by_index(at).map_err(|error| damaged(path, error))?;
            let name = entry.name().map_err(|error| damaged(path, error))?.into_owned();
            let raw = Path::new(&name);
            let Some(relative) = self.place(raw, path)? else { continue };
            let mode = entry.unix_mode().unwrap_or(0o644);
            if entry.is_dir() {
                self.writer.directory(&relative, path)?;
            } else if entry.is_symlink() {
                let mut link = String::new();
                (&mut entry)
                    .take(MAX_LINK)
                    .read_to_string(&mut link)
                    .map_err(|error| damaged(path, error))?;
                self.writer.symlink(&relative, Path::new(&link), path)?;
            } else if matches!(mode & TYPE, 0 | REGULAR) {
                self.writer.file(&relative, &mut entry, mode, None, path)?;
            } else {
                return Err(refused(path, raw, "it is not a file, directory or link"));
            }
        }
        Ok(())
    }
}
