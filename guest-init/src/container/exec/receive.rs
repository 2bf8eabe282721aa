//! Writes files of the host into the container.

use super::send::CopyError;
use crate::confined_fs::{EntryType, RootDir};
use crate::container::user::Identity;
use image::session::{Item, names};
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Writes a file or directory to `path`, or into the directory at `path` under `name`.
///
/// # Errors
/// [`CopyError`]. Files appear whole; what was written before stays.
pub(super) fn receive(
    root: &RootDir,
    path: &str,
    name: &str,
    owner: &Identity,
    input: &mut impl Read,
) -> Result<(), CopyError> {
    let at = Path::new(path);
    let is_directory = root.stat(at).is_ok_and(|stat| stat.kind == EntryType::Directory);
    if path.ends_with('/') && !is_directory {
        return Err(CopyError::Unexpected(format!("{path} is not a directory of the container")));
    }
    let top = if is_directory { at.join(name) } else { at.to_owned() };
    Receiver { root, top, owner, directories: BTreeSet::new() }.all(input)
}

struct Receiver<'a> {
    root: &'a RootDir,
    /// The path of what is copied.
    top: PathBuf,
    owner: &'a Identity,
    /// The directories that were received so far.
    directories: BTreeSet<Vec<u8>>,
}

impl Receiver<'_> {
    fn all(&mut self, input: &mut impl Read) -> Result<(), CopyError> {
        loop {
            match Item::read(input)? {
                Item::Directory { path, mode } => self.directory(path, mode)?,
                Item::File { path, mode, modified, size } => {
                    let at = self.place(&path)?;
                    self.root.receive_file(&at, mode, self.owned(), modified, |file| {
                        copy_content(input, file, size)
                    })?;
                }
                Item::Link { path, target } => {
                    let at = self.place(&path)?;
                    self.root.symlink(OsStr::from_bytes(&target), &at)?;
                }
                Item::End => return Ok(()),
                Item::LeftOut { .. } => {}
                Item::Data(_) => {
                    return Err(CopyError::Unexpected("expected a file before its content".into()));
                }
            }
        }
    }

    fn owned(&self) -> (u32, u32) {
        (self.owner.uid, self.owner.gid)
    }

    /// Creates a directory, or keeps one that is there.
    fn directory(&mut self, path: Vec<u8>, mode: u32) -> Result<(), CopyError> {
        let at = self.place(&path)?;
        match self.root.lstat(&at).map(|stat| stat.kind) {
            Ok(EntryType::Directory) => {}
            Ok(_) => {
                let at = at.display();
                return Err(CopyError::Unexpected(format!("{at} is in the way: it is not a directory")));
            }
            Err(_) => self.root.receive_dir(&at, mode, self.owned())?,
        }
        self.directories.insert(path);
        Ok(())
    }

    /// Returns the path of an item in the container. What it lies in was received as a directory.
    fn place(&self, path: &[u8]) -> Result<PathBuf, CopyError> {
        let names = names(path).map_err(CopyError::Unexpected)?;
        let parent = names.split_last().map(|(_, parents)| parents.join(&b'/'));
        if parent.is_some_and(|parent| !self.directories.contains(&parent)) {
            let path = String::from_utf8_lossy(path);
            return Err(CopyError::Unexpected(format!("expected the directory of {path} before it")));
        }
        Ok(names.iter().fold(self.top.clone(), |at, name| at.join(OsStr::from_bytes(name))))
    }
}

fn copy_content(input: &mut impl Read, file: &mut impl Write, size: u64) -> io::Result<()> {
    let mut left = size;
    while left > 0 {
        match Item::read(input).map_err(io::Error::other)? {
            Item::Data(data) if !data.is_empty() && data.len() as u64 <= left => {
                file.write_all(&data)?;
                left -= data.len() as u64;
            }
            _ => return Err(io::Error::other(format!("expected {left} more bytes of content"))),
        }
    }
    Ok(())
}
