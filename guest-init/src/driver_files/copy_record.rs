//! The record that copy mode keeps in the root: what there is ours. The next boot knows by it what is in place, what
//! an earlier driver left, and where a boot was cut off.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::InjectError;
use super::inventory::is_driver_name;
use crate::confined_fs::{Kind, RootDir, RootError, Stat};

/// Where it is, in the container root.
pub const PATH: &str = "/var/lib/gpu-initrd/record.json";
const FORMAT: u32 = 1;
/// Bytes of a record: a driver has about 100 files.
const MAX_BYTES: u64 = 1 << 20;

/// What was done, or is being done, to a root.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    pub(crate) format: u32,
    /// Version of the driver.
    pub version: Option<String>,
    /// Whether everything was done that it lists. While not, it lists the old and the new.
    pub complete: bool,
    /// By path.
    pub entries: BTreeMap<String, Entry>,
}

/// One name of ours.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Entry {
    /// A file, by what tells that nobody has changed it since.
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
        /// What it says.
        target: String,
    },
}

impl Entry {
    /// A file that is about to be written.
    pub fn pending(size: u64) -> Self {
        Self::File { size, inode: 0, modified_ns: 0 }
    }

    /// A file as it is.
    pub fn of(stat: &Stat) -> Self {
        Self::File { size: stat.size, inode: stat.ino, modified_ns: stat.modified_ns }
    }

    /// Whether what is at `path` is what was recorded, or what was being written.
    fn is_at(&self, root: &RootDir, path: &Path) -> bool {
        match self {
            Self::File { size, inode: 0, .. } => {
                root.lstat(path).is_ok_and(|stat| stat.kind == Kind::File && stat.size == *size)
            }
            Self::File { .. } => {
                root.lstat(path).is_ok_and(|stat| stat.kind == Kind::File && *self == Self::of(&stat))
            }
            Self::Link { target } => root.read_link(path).is_ok_and(|old| old == Path::new(target)),
        }
    }
}

impl Record {
    /// The record of `root`. A root without one has an empty one; so has a root whose record cannot be read, with a
    /// warning: what it lists is then found by its content.
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

    /// Writes it, whole and on the disk.
    ///
    /// # Errors
    /// [`InjectError::Root`] when that fails.
    pub fn write(&mut self, root: &RootDir) -> Result<(), InjectError> {
        self.format = FORMAT;
        let mut bytes = serde_json::to_vec_pretty(self).expect("a record holds nothing that JSON cannot");
        bytes.push(b'\n');
        root.create_dir_all(Path::new(PATH).parent().unwrap_or(Path::new("/")))?;
        Ok(root.write_atomic(Path::new(PATH), &bytes, 0o644)?)
    }

    /// The paths of what it lists, as far as it is still there and as it was left.
    pub fn ours(&self, root: &RootDir) -> BTreeSet<PathBuf> {
        let ours = self.entries.iter().filter(|(path, entry)| entry.is_at(root, Path::new(path)));
        ours.map(|(path, _)| path.into()).collect()
    }

    /// Whether the record says that the file at `path` is in place: ours, whole, and not changed since.
    pub fn has(&self, root: &RootDir, path: &Path) -> bool {
        let entry = path.to_str().and_then(|path| self.entries.get(path));
        entry.is_some_and(|entry| !matches!(entry, Entry::File { inode: 0, .. }) && entry.is_at(root, path))
    }

    /// Removes what it lists and `keep` does not, as far as it is still ours. Returns the paths removed.
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
                // What leads there now is not what was there when it was recorded.
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

/// Whether a driver has a file of this name: nothing else was ever put there by us.
fn is_drivers(path: &str) -> bool {
    Path::new(path).file_name().is_some_and(is_driver_name)
}

/// Whether a path is of the form that is recorded: absolute, and nothing but names.
fn is_plain(path: &str) -> bool {
    let mut parts = Path::new(path).components();
    path.len() < 4096
        && !path.contains('\0')
        && parts.next() == Some(Component::RootDir)
        && parts.clone().next().is_some()
        && parts.all(|part| matches!(part, Component::Normal(_)))
}
