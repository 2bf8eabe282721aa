//! Writes the content of archives: inside the root, never through a link, within a limit.

use super::error::{damaged, refused};
use crate::common::digest::Hasher;
use crate::common::error::{Doing, Error, Result};
use crate::common::space;
use std::collections::{BTreeMap, HashSet};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

/// Directories of a separate `/` that are merged into `/usr`.
const MERGED: [&str; 4] = ["bin", "sbin", "lib", "lib64"];

/// A regular file that was unpacked.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Unpacked {
    /// Path below the root.
    pub path: String,
    /// Size in bytes.
    pub size: u64,
    /// SHA-256 of the content.
    pub sha256: String,
    /// Whether it is executable.
    pub executable: bool,
}

/// Writes below one root.
pub struct Writer<'a> {
    root: &'a Path,
    checked: HashSet<PathBuf>,
    /// Maximum size of all files together.
    pub limit: u64,
    /// Most bytes that may be used in the destination.
    room: u64,
    bytes: u64,
    files: BTreeMap<PathBuf, Unpacked>,
}

impl<'a> Writer<'a> {
    /// Writes below `root`, which exists.
    pub fn new(root: &'a Path, limit: u64, room: u64) -> Self {
        Self { root, checked: HashSet::new(), limit, room, bytes: 0, files: BTreeMap::new() }
    }

    /// The written files, sorted by path.
    pub fn finish(self) -> Vec<Unpacked> {
        self.files.into_values().collect()
    }

    /// Writes a file. `relative` comes from [`inside`].
    pub fn file(
        &mut self,
        relative: &Path,
        input: &mut dyn Read,
        mode: u32,
        modified: Option<u64>,
        origin: &Path,
    ) -> Result<()> {
        let target = self.free(relative, origin)?;
        let mut out = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&target)
            .doing("creating", &target)?;
        let (size, sha256) = self.copy(input, &mut out, &target, origin)?;
        if let Some(seconds) = modified {
            let _ = out.set_modified(UNIX_EPOCH + Duration::from_secs(seconds));
        }
        out.set_permissions(fs::Permissions::from_mode((mode & 0o755) | 0o644))
            .doing("setting the mode of", &target)?;
        let executable = mode & 0o111 != 0;
        self.files.insert(relative.to_owned(), Unpacked { path: text(relative), size, sha256, executable });
        Ok(())
    }

    /// Creates a symbolic link. Its target is not checked, because nothing is written through it.
    pub fn symlink(&mut self, relative: &Path, link: &Path, origin: &Path) -> Result<()> {
        let target = self.target(relative, origin)?;
        if target.is_dir() && MERGED.iter().any(|dir| relative == Path::new("usr").join(dir)) {
            // base-files brings `/bin -> usr/bin`; what it points to is already here.
            return Ok(());
        }
        let target = self.free(relative, origin)?;
        std::os::unix::fs::symlink(link, &target).doing("linking", &target)
    }

    /// Creates another name of a file that was written before.
    pub fn hard_link(&mut self, relative: &Path, link: &Path, origin: &Path) -> Result<()> {
        let source = inside(link).ok_or_else(|| refused(origin, link, "its path leaves the root"))?;
        let from = self.target(&source, origin)?;
        if let Ok(link) = fs::read_link(&from) {
            return self.symlink(relative, &link, origin);
        }
        let Some(same) = self.files.get(&source).cloned() else {
            return Err(refused(
                origin,
                link,
                "it is a hard link to something that is not a file of the archive",
            ));
        };
        if source == relative {
            return Ok(());
        }
        let target = self.free(relative, origin)?;
        fs::hard_link(&from, &target).doing("linking", &target)?;
        self.files.insert(relative.to_owned(), Unpacked { path: text(relative), ..same });
        Ok(())
    }

    /// Creates a directory and its parents; none of them may be a link.
    pub fn directory(&mut self, relative: &Path, origin: &Path) -> Result<()> {
        if self.checked.contains(relative) || relative.as_os_str().is_empty() {
            return Ok(());
        }
        if let Some(parent) = relative.parent() {
            self.directory(parent, origin)?;
        }
        let path = self.root.join(relative);
        match fs::create_dir(&path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                if !fs::symlink_metadata(&path).doing("reading", &path)?.is_dir() {
                    return Err(refused(origin, relative, "a parent of it is a link or a file"));
                }
            }
            result => result.doing("creating", &path)?,
        }
        self.checked.insert(relative.to_owned());
        Ok(())
    }

    fn target(&mut self, relative: &Path, origin: &Path) -> Result<PathBuf> {
        if let Some(parent) = relative.parent() {
            self.directory(parent, origin)?;
        }
        Ok(self.root.join(relative))
    }

    /// The destination of a file or link. Removes what an earlier entry created there.
    fn free(&mut self, relative: &Path, origin: &Path) -> Result<PathBuf> {
        let target = self.target(relative, origin)?;
        replace(&target)?;
        self.files.remove(relative);
        Ok(target)
    }

    /// The limit applies to the actual data, not to the size in a header.
    fn copy(
        &mut self,
        input: &mut dyn Read,
        out: &mut File,
        target: &Path,
        origin: &Path,
    ) -> Result<(u64, String)> {
        let mut hasher = Hasher::default();
        let mut buffer = vec![0; 128 << 10];
        let mut size = 0;
        loop {
            let got = input.read(&mut buffer).map_err(|error| damaged(origin, error))?;
            if got == 0 {
                return Ok((size, hasher.hex()));
            }
            size += got as u64;
            self.bytes += got as u64;
            if self.bytes > self.limit {
                return Err(Error::new(format!(
                    "{}: unpacks to more than {} bytes",
                    origin.display(),
                    self.limit
                ))
                .hint("check where the archive came from, or resolve again: pins resolve; the archive does not match the lock"));
            }
            if self.bytes > self.room {
                let what = format!("{}: unpacks to more", origin.display());
                return Err(space::short(&what, self.root, self.room));
            }
            out.write_all(&buffer[..got]).doing("writing", target)?;
            hasher.write_all(&buffer[..got]).doing("hashing", target)?;
        }
    }
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// The path below the root for a path in an archive, with `/bin` and other merged directories moved
/// below `/usr`; `None` if it leaves the root.
pub fn inside(path: &Path) -> Option<PathBuf> {
    let mut result = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => {
                if result.as_os_str().is_empty() && MERGED.iter().any(|dir| name == *dir) {
                    result.push("usr");
                }
                result.push(name);
            }
            Component::CurDir | Component::RootDir => {}
            Component::ParentDir | Component::Prefix(_) => return None,
        }
    }
    Some(result)
}

/// Removes a file that an earlier entry created.
fn replace(target: &Path) -> Result<()> {
    match fs::symlink_metadata(target) {
        Ok(metadata) if metadata.is_dir() => Err(Error::new(format!(
            "{}: is a directory, but the archive has a file with that name",
            target.display()
        ))),
        Ok(_) => fs::remove_file(target).doing("replacing", target),
        Err(_) => Ok(()),
    }
}
