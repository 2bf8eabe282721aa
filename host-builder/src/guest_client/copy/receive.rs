//! Writes files of a guest to this machine. The guest is hostile: it decides what is in the copy, but nothing is written outside of
//! the place of the copy, through a link, or beyond half of the free space.

use super::Copied;
use crate::common::clean::clean;
use crate::common::error::{Doing, Error, Result};
use crate::common::interrupt::Guard;
use crate::common::{files, space};
use image::session::{Item, MAX_FRAME, names};
use image::wire::Decoder;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, DirBuilder, Permissions};
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

/// Most files, directories and links in one copy.
const MAX_ENTRIES: u64 = 1_000_000;

/// Receives a copy in pieces.
pub(super) struct Receiver<'a> {
    /// The path of what is copied.
    top: PathBuf,
    /// Most bytes of content.
    most: u64,
    on_bytes: &'a dyn Fn(u64),
    decoder: Decoder,
    /// The directories that were received so far, and their permission bits.
    directories: BTreeMap<Vec<u8>, u32>,
    file: Option<Unfinished>,
    entries: u64,
    is_complete: bool,
    copied: Copied,
}

/// A file whose content has not arrived completely.
struct Unfinished {
    temporary: tempfile::NamedTempFile,
    at: PathBuf,
    mode: u32,
    modified: i64,
    left: u64,
    _guard: Guard,
}

impl<'a> Receiver<'a> {
    /// The copy of `from`, a path of the guest, goes to `to`, or into the directory `to`.
    pub(super) fn new(from: &str, to: &Path, on_bytes: &'a dyn Fn(u64)) -> Result<Self> {
        let wants_directory = to.as_os_str().as_bytes().ends_with(b"/");
        let top = if to.is_dir() {
            let name = Path::new(from).file_name().ok_or_else(|| {
                Error::new(format!("{from} has no name, and {} is a directory", to.display()))
                    .hint("name the copy, such as ./root")
            })?;
            to.join(name)
        } else if wants_directory {
            return Err(Error::new(format!("{} is not a directory", to.display())).hint("create it first"));
        } else {
            to.to_owned()
        };
        let most = space::half(parent_of(&top))?;
        Ok(Self {
            top,
            most,
            on_bytes,
            decoder: Decoder::default(),
            directories: BTreeMap::new(),
            file: None,
            entries: 0,
            is_complete: false,
            copied: Copied::default(),
        })
    }

    /// Takes the next bytes of the stream.
    pub(super) fn take(&mut self, bytes: &[u8]) -> Result<()> {
        self.decoder.feed(bytes);
        while let Some(item) = self
            .decoder
            .next(MAX_FRAME)
            .map_err(|error| Error::new("the guest sent something that is not a copy").source(error))?
        {
            self.item(item)?;
        }
        Ok(())
    }

    /// Completes the copy.
    pub(super) fn finish(self) -> Result<Copied> {
        if !self.is_complete {
            return Err(Error::new("the copy is incomplete: the guest ended it early"));
        }
        // The deepest first: a directory may be made read-only.
        for (path, mode) in self.directories.iter().rev() {
            let at = self.place(path)?;
            fs::set_permissions(&at, Permissions::from_mode(mode & 0o777))
                .doing("setting the mode of", &at)?;
        }
        Ok(self.copied)
    }

    fn item(&mut self, item: Item) -> Result<()> {
        if self.is_complete || (self.file.is_some() != matches!(item, Item::Data(_))) {
            return Err(unexpected("its parts are in the wrong order"));
        }
        if !matches!(item, Item::Data(_)) {
            self.entries += 1;
        }
        if self.entries > MAX_ENTRIES {
            return Err(unexpected(&format!("it has more than {MAX_ENTRIES} entries")));
        }
        match item {
            Item::Directory { path, mode } => self.directory(path, mode),
            Item::File { path, mode, modified, size } => self.begin_file(&path, mode, modified, size),
            Item::Data(bytes) => self.content(&bytes),
            Item::Link { path, target } => self.link(&path, &target),
            Item::LeftOut { path } if path.is_empty() => {
                Err(Error::new("it is a device, a FIFO or a socket: expected a file or a directory"))
            }
            Item::LeftOut { .. } => {
                self.copied.left_out += 1;
                Ok(())
            }
            Item::End => {
                self.is_complete = true;
                Ok(())
            }
        }
    }

    /// Returns the place of an item on this machine. What it lies in was received as a directory, so no link leads elsewhere.
    fn place(&self, path: &[u8]) -> Result<PathBuf> {
        let names = names(path).map_err(|what| unexpected(&clean(&what, 200)))?;
        let parent = names.split_last().map(|(_, parents)| parents.join(&b'/'));
        if parent.is_some_and(|parent| !self.directories.contains_key(&parent)) {
            let path = String::from_utf8_lossy(path);
            return Err(unexpected(&format!("the directory of {} is missing", clean(&path, 200))));
        }
        Ok(names.iter().fold(self.top.clone(), |at, name| at.join(OsStr::from_bytes(name))))
    }

    /// Creates a directory, or keeps one that is there.
    fn directory(&mut self, path: Vec<u8>, mode: u32) -> Result<()> {
        let at = self.place(&path)?;
        match fs::symlink_metadata(&at) {
            Ok(found) if found.is_dir() => {}
            Ok(_) => {
                return Err(Error::new(format!("{} is in the way: it is not a directory", at.display()))
                    .hint("choose another place, or remove it"));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                DirBuilder::new().mode(0o700).create(&at).doing("creating", &at)?;
            }
            Err(error) => return Err(error).doing("looking at", &at),
        }
        self.directories.insert(path, mode);
        Ok(())
    }

    fn begin_file(&mut self, path: &[u8], mode: u32, modified: i64, size: u64) -> Result<()> {
        let at = self.place(path)?;
        if fs::symlink_metadata(&at).is_ok_and(|found| found.is_dir()) {
            return Err(Error::new(format!("{} is in the way: it is a directory", at.display())));
        }
        self.copied.bytes = self.copied.bytes.saturating_add(size);
        if self.copied.bytes > self.most {
            return Err(space::short("the copy is larger", parent_of(&at), self.most));
        }
        let parent = parent_of(&at);
        let temporary = tempfile::Builder::new()
            .prefix(files::TEMPORARY)
            .tempfile_in(parent)
            .doing("creating a temporary file in", parent)?;
        let guard = Guard::new(temporary.path());
        self.file = Some(Unfinished { temporary, at, mode, modified, left: size, _guard: guard });
        if size == 0 { self.end_file() } else { Ok(()) }
    }

    fn content(&mut self, bytes: &[u8]) -> Result<()> {
        let Some(file) = &mut self.file else { return Err(unexpected("content without a file")) };
        let length = bytes.len() as u64;
        if length == 0 || length > file.left {
            return Err(unexpected("a file is longer than announced"));
        }
        file.temporary.write_all(bytes).doing("writing", &file.at)?;
        file.left -= length;
        (self.on_bytes)(length);
        if file.left == 0 { self.end_file() } else { Ok(()) }
    }

    /// Renames a complete file to its place.
    fn end_file(&mut self) -> Result<()> {
        let Some(Unfinished { temporary, at, mode, modified, .. }) = self.file.take() else { return Ok(()) };
        let file = temporary.as_file();
        file.set_permissions(Permissions::from_mode(mode & 0o777)).doing("setting the mode of", &at)?;
        let time = UNIX_EPOCH + Duration::from_secs(modified.clamp(0, i64::from(u32::MAX)).cast_unsigned());
        file.set_modified(time).doing("setting the time of", &at)?;
        temporary.persist(&at).map_err(|error| error.error).doing("renaming to", &at)?;
        self.copied.files += 1;
        Ok(())
    }

    /// Creates a link, in the place of a file or link that is there.
    fn link(&mut self, path: &[u8], target: &[u8]) -> Result<()> {
        let at = self.place(path)?;
        match fs::symlink_metadata(&at) {
            Ok(found) if !found.is_dir() => fs::remove_file(&at).doing("replacing", &at)?,
            _ => {}
        }
        symlink(OsStr::from_bytes(target), &at).doing("linking", &at)
    }
}

fn parent_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn unexpected(what: &str) -> Error {
    Error::new(format!("the guest sent an invalid copy: {what}")).hint("do not trust this guest")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(items: &[Item]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for item in items {
            item.write(&mut bytes).unwrap();
        }
        bytes
    }

    /// Receives a copy into `to`, in pieces of this size.
    fn receive(items: &[Item], to: &Path, size: usize) -> Result<Copied> {
        let mut receiver = Receiver::new("/srv/tree", to, &|_| {})?;
        bytes(items).chunks(size).try_for_each(|piece| receiver.take(piece))?;
        receiver.finish()
    }

    fn directory(path: &str) -> Item {
        Item::Directory { path: path.into(), mode: 0o500 }
    }

    fn file(path: &str, size: u64) -> Item {
        Item::File { path: path.into(), mode: 0o4644, modified: 1_000_000_000, size }
    }

    fn link(path: &str, target: &str) -> Item {
        Item::Link { path: path.into(), target: target.into() }
    }

    fn data(text: &str) -> Item {
        Item::Data(text.into())
    }

    #[test]
    fn a_tree_appears_in_a_directory_or_under_a_name() {
        let dir = tempfile::tempdir().unwrap();
        let items = [
            directory(""),
            directory("a"),
            file("a/f", 5),
            data("con"),
            data("ts"),
            file("a/empty", 0),
            link("l", "/etc"),
            Item::LeftOut { path: b"dev".to_vec() },
            Item::End,
        ];
        for (to, top) in [(dir.path().to_owned(), "tree"), (dir.path().join("other"), "other")] {
            for size in [1, 7, 10_000] {
                let copied = receive(&items, &to, size).unwrap();
                assert_eq!(copied, Copied { files: 2, bytes: 5, left_out: 1 });
                let top = dir.path().join(top);
                assert_eq!(fs::read_to_string(top.join("a/f")).unwrap(), "conts");
                let about = fs::metadata(top.join("a/f")).unwrap();
                assert_eq!(about.permissions().mode() & 0o7777, 0o644);
                assert_eq!(about.modified().unwrap(), UNIX_EPOCH + Duration::from_secs(1_000_000_000));
                assert_eq!(fs::read_link(top.join("l")).unwrap(), Path::new("/etc"));
                assert_eq!(fs::metadata(top.join("a")).unwrap().permissions().mode() & 0o777, 0o500);
                // Only so that an ordinary user can write over it.
                fs::set_permissions(top.join("a"), Permissions::from_mode(0o700)).unwrap();
                fs::set_permissions(&top, Permissions::from_mode(0o700)).unwrap();
                if to == dir.path().join("other") {
                    fs::remove_dir_all(&to).unwrap();
                }
            }
        }
    }

    #[test]
    fn a_hostile_guest_writes_nowhere_else() {
        let dir = tempfile::tempdir().unwrap();
        let outside = dir.path().join("outside");
        fs::create_dir(&outside).unwrap();
        let out = outside.to_str().unwrap();
        let copies: &[(&[Item], &str)] = &[
            (&[directory(""), link("l", out), file("l/x", 1)], "the directory of l/x is missing"),
            (&[directory(""), link("l", out), directory("l"), file("l/x", 1)], "l is in the way"),
            (&[directory(""), file("../x", 1)], "expected names"),
            (&[directory(""), file("/x", 1)], "expected names"),
            (&[file("a/b", 1)], "the directory of a/b is missing"),
            (&[directory(""), directory("a"), file("a", 1)], "a is in the way"),
            (&[file("", 1), data("xy")], "longer than announced"),
            (&[file("", 2), data("x"), Item::End], "in the wrong order"),
            (&[data("x")], "in the wrong order"),
            (&[file("", u64::MAX)], "the copy is larger"),
            (&[Item::LeftOut { path: Vec::new() }], "a device, a FIFO or a socket"),
            (&[directory("")], "incomplete"),
            (&[directory(""), Item::End, file("x", 0)], "in the wrong order"),
        ];
        for (number, (items, said)) in copies.iter().enumerate() {
            let error = receive(items, &dir.path().join(number.to_string()), 64).unwrap_err();
            assert!(error.chain().contains(said), "{number}: {}", error.chain());
        }
        let mut receiver = Receiver::new("/x", &dir.path().join("y"), &|_| {}).unwrap();
        assert!(receiver.take(b"no frame of ours").unwrap_err().chain().contains("not a copy"));
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
        let left = walkdir::WalkDir::new(dir.path()).into_iter().map(|entry| entry.unwrap());
        let partial: Vec<_> =
            left.filter(|entry| entry.file_name().to_string_lossy().starts_with(files::TEMPORARY)).collect();
        assert!(partial.is_empty(), "{partial:?}");
    }

    #[test]
    fn the_place_of_a_copy_is_checked_before_anything_is_asked_for() {
        let dir = tempfile::tempdir().unwrap();
        let refused = |from: &str, to: &Path| Receiver::new(from, to, &|_| {}).err().unwrap().chain();
        assert!(refused("/", dir.path()).contains("has no name"));
        let missing = format!("{}/missing/", dir.path().display());
        assert!(refused("/x", Path::new(&missing)).contains("is not a directory"));
        assert!(Receiver::new("/", &dir.path().join("root"), &|_| {}).is_ok());
    }
}
