//! The record of copied files in the root. It tells the next boot which files are in place, which ones an earlier driver
//! left, and where a boot was interrupted.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::error::InjectError;
use super::names::is_driver_name;
use crate::confined_fs::{EntryType, RootDir, RootError, Stat};

/// Path in the container root.
pub const PATH: &str = "/var/lib/gpu-initrd/record.json";
const FORMAT: u32 = 1;
/// Maximum size of a record in bytes. A driver has about 100 files.
const MAX_BYTES: u64 = 1 << 20;

/// The changes to a root, complete or in progress.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    pub(crate) format: u32,
    /// Version of the driver.
    pub version: Option<String>,
    /// Whether all changes are done. Until then the record lists the old and the new files.
    pub complete: bool,
    /// By path.
    pub entries: BTreeMap<String, Entry>,
}

/// One recorded name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Entry {
    /// A file, with the attributes that show whether it has changed.
    File {
        /// Bytes.
        size: u64,
        /// Its inode; 0 while it is being written.
        inode: u64,
        /// When it was written, nanoseconds since 1970; 0 while it is being written.
        modified_ns: i64,
    },
    /// A link.
    Link {
        /// Its target.
        target: String,
    },
}

impl Entry {
    /// Entry of a file that is about to be written.
    pub fn pending(size: u64) -> Self {
        Self::File { size, inode: 0, modified_ns: 0 }
    }

    /// Entry of an existing file.
    pub fn of(stat: &Stat) -> Self {
        Self::File { size: stat.size, inode: stat.ino, modified_ns: stat.modified_ns }
    }

    /// Returns whether the file at `path` is the recorded one, or the one that was being written.
    fn is_at(&self, root: &RootDir, path: &Path) -> bool {
        match self {
            Self::File { size, inode: 0, .. } => {
                root.lstat(path).is_ok_and(|stat| stat.kind == EntryType::File && stat.size == *size)
            }
            Self::File { .. } => {
                root.lstat(path).is_ok_and(|stat| stat.kind == EntryType::File && *self == Self::of(&stat))
            }
            Self::Link { target } => root.read_link(path).is_ok_and(|old| old == Path::new(target)),
        }
    }
}

impl Record {
    /// Reads the record of `root`. Without a record, or with an unreadable one (which is a warning), it is empty; files are
    /// then identified by their content.
    pub fn read(root: &RootDir, warnings: &mut Vec<String>) -> Self {
        let bytes = match root.read(Path::new(PATH), MAX_BYTES) {
            Ok(bytes) => bytes,
            Err(error) if error.is_not_found() => return Self::default(),
            Err(error) => {
                warnings.push(error.to_string());
                return Self::default();
            }
        };
        match serde_json::from_slice::<Self>(&bytes) {
            Ok(mut record) if record.format == FORMAT => {
                let listed = record.entries.len();
                record.entries.retain(|path, _| is_plain(path) && is_drivers(path));
                if record.entries.len() < listed {
                    let odd = listed - record.entries.len();
                    warnings.push(format!("{PATH}: ignored {odd} paths that guest-init did not write"));
                }
                record
            }
            Ok(record) => {
                warnings.push(format!("{PATH}: ignored: found format {} (expected {FORMAT})", record.format));
                Self::default()
            }
            Err(error) => {
                warnings.push(format!("{PATH}: ignored: {error}"));
                Self::default()
            }
        }
    }

    /// Writes the record atomically and durably.
    ///
    /// # Errors
    /// [`InjectError::Root`] if the write fails.
    pub fn write(&mut self, root: &RootDir) -> Result<(), InjectError> {
        self.format = FORMAT;
        let mut bytes = serde_json::to_vec_pretty(self).expect("a record holds nothing that JSON cannot");
        bytes.push(b'\n');
        root.create_dir_all(Path::new(PATH).parent().unwrap_or(Path::new("/")))?;
        Ok(root.write_atomic(Path::new(PATH), &bytes, 0o644)?)
    }

    /// Returns the recorded paths that exist and are unchanged.
    pub fn ours(&self, root: &RootDir) -> BTreeSet<PathBuf> {
        let ours = self.entries.iter().filter(|(path, entry)| entry.is_at(root, Path::new(path)));
        ours.map(|(path, _)| path.into()).collect()
    }

    /// Returns whether the file at `path` is recorded, complete and unchanged.
    pub fn has(&self, root: &RootDir, path: &Path) -> bool {
        let entry = path.to_str().and_then(|path| self.entries.get(path));
        entry.is_some_and(|entry| !matches!(entry, Entry::File { inode: 0, .. }) && entry.is_at(root, path))
    }

    /// Removes unchanged recorded files that are not in `keep`. Returns the removed paths.
    ///
    /// # Errors
    /// [`RootError`] when something cannot be removed.
    pub fn remove_stale(
        &self,
        root: &RootDir,
        keep: &BTreeMap<String, Entry>,
        warnings: &mut Vec<String>,
    ) -> Result<Vec<String>, RootError> {
        let mut removed = Vec::new();
        let stale = self.entries.iter().filter(|(path, _)| !keep.contains_key(*path));
        for (name, entry) in stale {
            let path = PathBuf::from(name);
            if let Err(error) = root.discard(&path) {
                // The path has changed since it was recorded.
                warnings.push(format!("{name}: cannot check the file of an earlier driver: {error}"));
                continue;
            }
            if entry.is_at(root, &path) {
                root.remove_file(&path)?;
                removed.push(name.clone());
            } else if root.lstat(&path).is_ok() {
                warnings.push(format!("{name}: kept the file of an earlier driver, which has changed since"));
            }
        }
        Ok(removed)
    }
}

/// Returns whether a driver has a file of this name; guest-init never writes others.
fn is_drivers(path: &str) -> bool {
    Path::new(path).file_name().is_some_and(is_driver_name)
}

/// Returns whether a path is in recorded form: absolute, with only plain names.
fn is_plain(path: &str) -> bool {
    let mut parts = Path::new(path).components();
    path.len() < 4096
        && !path.contains('\0')
        && parts.next() == Some(Component::RootDir)
        && parts.clone().next().is_some()
        && parts.all(|part| matches!(part, Component::Normal(_)))
}
