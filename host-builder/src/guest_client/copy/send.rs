//! Reads files of this machine for a copy.

use super::Copied;
use crate::common::error::{Doing, Error, Result};
use image::session::{Item, MAX_DATA, below};
use std::fs::{self, File, FileType};
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Returns the name of a file or directory, under which it appears in a directory.
pub(super) fn name_of(path: &Path) -> Result<String> {
    let full = path.canonicalize().doing("reading", path)?;
    // A link keeps its own name.
    let name = path.file_name().or(full.file_name());
    let name = name.ok_or_else(|| {
        Error::new(format!("{} has no name", path.display())).hint("copy what is in it instead")
    })?;
    Ok(name.to_string_lossy().into_owned())
}

/// Sends the file or directory at `path`. A link at the end of `path` is followed, and links in a directory are sent as links.
pub(super) fn send(path: &Path, out: &mut impl Write, on_bytes: &dyn Fn(u64)) -> Result<Copied> {
    let mut sender = Sender { out, on_bytes, copied: Copied::default() };
    let kind = fs::metadata(path).doing("reading", path)?.file_type();
    sender.entry(path, kind, &[])?;
    sender.item(&Item::End)?;
    Ok(sender.copied)
}

struct Sender<'a, W: Write> {
    out: &'a mut W,
    on_bytes: &'a dyn Fn(u64),
    copied: Copied,
}

impl<W: Write> Sender<'_, W> {
    fn item(&mut self, item: &Item) -> Result<()> {
        item.write(self.out).map_err(|error| Error::new("cannot send to the guest").source(error))
    }

    fn entry(&mut self, path: &Path, kind: FileType, name: &[u8]) -> Result<()> {
        if kind.is_file() {
            self.file(path, name)
        } else if kind.is_symlink() {
            let target = fs::read_link(path).doing("reading the link", path)?;
            self.item(&Item::Link { path: name.to_vec(), target: target.as_os_str().as_bytes().to_vec() })
        } else if kind.is_dir() {
            self.directory(path, name)
        } else {
            self.copied.left_out += 1;
            self.item(&Item::LeftOut { path: name.to_vec() })
        }
    }

    fn directory(&mut self, path: &Path, name: &[u8]) -> Result<()> {
        let mode = fs::metadata(path).doing("reading", path)?.mode() & 0o777;
        self.item(&Item::Directory { path: name.to_vec(), mode })?;
        let entries = fs::read_dir(path).and_then(Iterator::collect::<std::io::Result<Vec<_>>>);
        let mut entries = entries.doing("reading the directory", path)?;
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            let name = below(name, entry.file_name().as_bytes());
            let kind = entry.file_type().doing("reading", &entry.path())?;
            self.entry(&entry.path(), kind, &name)?;
        }
        Ok(())
    }

    fn file(&mut self, path: &Path, name: &[u8]) -> Result<()> {
        let file = File::open(path).doing("opening", path)?;
        let about = file.metadata().doing("reading", path)?;
        let size = about.len();
        let (mode, modified) = (about.mode() & 0o777, about.mtime());
        self.item(&Item::File { path: name.to_vec(), mode, modified, size })?;
        // A file that grows meanwhile is cut, one that shrinks is an error.
        let (mut file, mut left) = (file.take(size), size);
        let mut buffer = vec![0; MAX_DATA];
        while left > 0 {
            let count = file.read(&mut buffer).doing("reading", path)?;
            if count == 0 {
                return Err(Error::new(format!(
                    "{}: it was {size} bytes long and became shorter",
                    path.display()
                ))
                .hint("copy it when no program writes to it"));
            }
            self.item(&Item::Data(buffer[..count].to_vec()))?;
            left -= count as u64;
            (self.on_bytes)(count as u64);
        }
        self.copied.files += 1;
        self.copied.bytes += size;
        Ok(())
    }
}
