//! Unpacks an image into a directory, with the same result as in the kernel.
//!
//! [`Tree`](super::Tree) has already resolved all links, so every parent of a path is a directory.
//! Links are created last, and nothing is written through a link.

use super::archive::Archive;
use super::contents::Contents;
use super::cpio::kind;
use super::tree::{Left, Tree};
use crate::common::error::{Doing, Error, Result};
use crate::common::files::Scratch;
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use nix::unistd::geteuid;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt, lchown, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

/// Mode bits of unpacked files without set-user-ID and set-group-ID.
const HARMLESS: u32 = 0o1777;

/// What may be created in addition to plain files.
#[derive(Debug, Default, Clone, Copy)]
pub struct How {
    /// Device nodes, named pipes and sockets.
    pub devices: bool,
    /// Set-user-ID and set-group-ID bits.
    pub set_ids: bool,
}

/// The result of unpacking.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize)]
pub struct Extracted {
    /// Regular files.
    pub files: u64,
    /// Their size in bytes.
    pub bytes: u64,
    /// Directories.
    pub directories: u64,
    /// Symbolic links.
    pub links: u64,
    /// Number of device nodes, named pipes and sockets that were created.
    pub devices: u64,
    /// Number of device nodes, named pipes and sockets that were skipped.
    pub devices_left_out: u64,
    /// Files and directories whose set-user-ID or set-group-ID bit was removed.
    pub set_ids_left_out: u64,
    /// Entries that the kernel does not unpack as stored.
    pub remarks: u64,
}

/// Unpacks everything into `to`, which must not exist or must be empty. It appears completely or
/// not at all.
pub fn extract(
    archive: &Archive,
    contents: &Contents,
    tree: &Tree,
    to: &Path,
    how: How,
) -> Result<Extracted> {
    check_empty(to)?;
    check_names(contents)?;
    let parent = to.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(parent).doing("creating", parent)?;
    let scratch = Scratch::new(parent)?;
    let (owners, remarks) = (geteuid().is_root(), tree.remarks.len() as u64);
    let done = Extracted { remarks, ..Extracted::default() };
    let mut extractor = Extractor { root: scratch.path(), how, owners, done };
    extractor.directories(tree)?;
    extractor.files(archive, tree)?;
    extractor.devices(tree)?;
    extractor.links(tree)?;
    extractor.finish_directories(tree)?;
    let done = extractor.done;
    fs::rename(scratch.path(), to).doing("renaming to", to)?;
    Ok(done)
}

fn check_empty(to: &Path) -> Result<()> {
    let remedy = "choose a new or an empty directory";
    match fs::read_dir(to) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error).doing("reading", to),
        Ok(mut entries) => match entries.next() {
            None => Ok(()),
            Some(_) => Err(Error::new(format!(
                "{} is not empty: expected an empty directory, or none",
                to.display()
            ))
            .hint(remedy)),
        },
    }
}

/// For the kernel, the parent of the root is the root. In a directory, this is not what is wanted.
fn check_names(contents: &Contents) -> Result<()> {
    let leaves = |name: &[u8]| name.split(|byte| *byte == b'/').any(|part| part == b"..");
    match contents.items.iter().find(|item| leaves(&item.entry.name)) {
        None => Ok(()),
        Some(item) => {
            Err(Error::new(format!("entry {:?}: its path leaves the directory", item.entry.text()))
                .hint("check where the file came from: no tool creates such paths"))
        }
    }
}

struct Extractor<'a> {
    root: &'a Path,
    how: How,
    owners: bool,
    done: Extracted,
}

/// Creates the names of one file.
struct Names<'a> {
    left: Left<'a>,
    paths: Vec<&'a [u8]>,
}

impl Extractor<'_> {
    fn at(&self, path: &[u8]) -> PathBuf {
        self.root.join(OsStr::from_bytes(&path[1..]))
    }

    /// Creates directories that their owner can write to until everything is in them.
    fn directories(&mut self, tree: &Tree) -> Result<()> {
        for (path, _) in of_kind(tree, kind::DIRECTORY) {
            let place = self.at(path);
            DirBuilder::new().recursive(true).mode(0o700).create(&place).doing("creating", &place)?;
            self.done.directories += u64::from(path != b"/");
        }
        // Directories without an entry: the kernel creates /dev itself.
        let parents: BTreeSet<_> =
            tree.paths.keys().filter_map(|path| self.at(path).parent().map(Path::to_owned)).collect();
        for parent in parents {
            fs::create_dir_all(&parent).doing("creating", &parent)?;
        }
        Ok(())
    }

    fn files(&mut self, archive: &Archive, tree: &Tree) -> Result<()> {
        let mut by_entry: BTreeMap<usize, Vec<Names>> = BTreeMap::new();
        let mut by_file: BTreeMap<usize, Names> = BTreeMap::new();
        for (path, left) in of_kind(tree, kind::FILE) {
            by_file.entry(left.file).or_insert(Names { left, paths: Vec::new() }).paths.push(path);
        }
        for names in by_file.into_values() {
            by_entry.entry(names.left.number).or_default().push(names);
        }
        let mut at = 0;
        archive.walk(|_, entry, content| {
            for names in by_entry.get(&at).into_iter().flatten() {
                let place = self.at(names.paths[0]);
                let mut file = OpenOptions::new()
                    .write(true)
                    .create_new(true)
                    .mode(0o600)
                    .open(&place)
                    .doing("creating", &place)?;
                content.copy(entry, &mut file, &place)?;
                self.done.bytes += u64::from(entry.size);
                self.attributes(&place, &names.left)?;
                file.set_modified(time(names.left.entry.mtime)).doing("setting the time of", &place)?;
                for path in &names.paths[1..] {
                    let other = self.at(path);
                    fs::hard_link(&place, &other).doing("linking", &other)?;
                }
                self.done.files += names.paths.len() as u64;
            }
            at += 1;
            Ok(())
        })?;
        Ok(())
    }

    fn devices(&mut self, tree: &Tree) -> Result<()> {
        for kind in [kind::CHARACTER, kind::BLOCK, kind::FIFO, kind::SOCKET] {
            for (path, left) in of_kind(tree, kind) {
                if !self.how.devices {
                    self.done.devices_left_out += 1;
                    continue;
                }
                let place = self.at(path);
                let (major, minor) = left.item.entry.device;
                let device = makedev(u64::from(major), u64::from(minor));
                mknod(&place, SFlag::from_bits_truncate(kind), Mode::empty(), device)
                    .map_err(io::Error::from)
                    .doing("making the device node", &place)?;
                self.attributes(&place, &left)?;
                self.done.devices += 1;
            }
        }
        Ok(())
    }

    fn links(&mut self, tree: &Tree) -> Result<()> {
        for (path, left) in of_kind(tree, kind::LINK) {
            let (place, target) = (self.at(path), left.item.target.as_deref().unwrap_or_default());
            // The target of a link to nothing; a remark reports it.
            if target.is_empty() {
                continue;
            }
            symlink(OsStr::from_bytes(target), &place).doing("linking", &place)?;
            self.own(&place, &left)?;
            self.done.links += 1;
        }
        Ok(())
    }

    /// Sets modes and times, the deepest directory first: a directory may be closed to its owner.
    fn finish_directories(&mut self, tree: &Tree) -> Result<()> {
        let directories: Vec<_> = of_kind(tree, kind::DIRECTORY).collect();
        for (path, left) in directories.into_iter().rev() {
            let place = self.at(path);
            let directory = File::open(&place).doing("opening", &place)?;
            directory.set_modified(time(left.entry.mtime)).doing("setting the time of", &place)?;
            self.attributes(&place, &left)?;
        }
        if !tree.paths.contains_key(b"/".as_slice()) {
            fs::set_permissions(self.root, Permissions::from_mode(0o755))
                .doing("setting the mode of", self.root)?;
        }
        Ok(())
    }

    fn attributes(&mut self, place: &Path, left: &Left) -> Result<()> {
        self.own(place, left)?;
        // Without root, everything belongs to the user, and nothing must run as another user.
        let mode = if self.how.set_ids && self.owners { left.mode() } else { left.mode() & HARMLESS };
        self.done.set_ids_left_out += u64::from(mode != left.mode());
        fs::set_permissions(place, Permissions::from_mode(mode)).doing("setting the mode of", place)
    }

    fn own(&self, place: &Path, left: &Left) -> Result<()> {
        if !self.owners {
            return Ok(());
        }
        lchown(place, Some(left.entry.uid), Some(left.entry.gid)).doing("setting the owner of", place)
    }
}

fn of_kind<'t>(tree: &'t Tree<'t>, kind: u32) -> impl Iterator<Item = (&'t [u8], Left<'t>)> {
    tree.paths
        .iter()
        .filter(move |(_, left)| left.kind() == kind)
        .map(|(path, left)| (path.as_slice(), *left))
}

fn time(seconds: u32) -> std::time::SystemTime {
    UNIX_EPOCH + Duration::from_secs(u64::from(seconds))
}
