//! Unpacks an image into a directory. What is in the image never gets outside: every directory is looked up below the
//! new one (`openat2` with `RESOLVE_IN_ROOT`), and the last part of a path is never followed.

use super::{Archive, Content, Place, absolute};
use crate::cache::Scratch;
use crate::error::{Doing, Error, Result};
use image::cpio::{Entry, kind};
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, openat, openat2};
use nix::sys::stat::{FchmodatFlags, Mode, SFlag, fchmod, fchmodat, fstatat, makedev, mkdirat, mknodat};
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchownat, geteuid, linkat, symlinkat, unlinkat};
use serde::Serialize;
use std::cmp::Reverse;
use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

/// What was unpacked.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize)]
pub struct Extracted {
    /// Regular files.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Directories.
    pub directories: u64,
    /// Symbolic links.
    pub links: u64,
    /// Device nodes, named pipes and sockets that were made.
    pub devices: u64,
    /// Those that were passed over.
    pub devices_left_out: u64,
}

/// Unpacks everything into `to`, which must not exist or be empty. It appears whole or not at all.
pub fn extract(archive: &Archive, to: &Path, devices: bool) -> Result<Extracted> {
    check_empty(to)?;
    let parent = to.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(parent).doing("creating", parent)?;
    let scratch = Scratch::new(parent)?;
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let root = nix::fcntl::open(scratch.path(), flags, Mode::empty()).at("opening", scratch.path())?;
    let mut extractor = Extractor {
        root,
        devices,
        owners: geteuid().is_root(),
        inodes: HashMap::new(),
        directories: vec![Directory { path: PathBuf::new(), mode: 0o755, owner: None, mtime: None }],
        done: Extracted::default(),
    };
    archive.walk(|place, entry, content| extractor.entry(place, entry, content))?;
    extractor.finish_directories()?;
    fs::rename(scratch.path(), to).doing("renaming to", to)?;
    Ok(extractor.done)
}

fn check_empty(to: &Path) -> Result<()> {
    let remedy = "name a directory that is not there yet, or an empty one";
    match fs::read_dir(to) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error).doing("reading", to),
        Ok(mut entries) => match entries.next() {
            None => Ok(()),
            Some(_) => Err(Error::new(format!(
                "{}: expected no or an empty directory, it holds something",
                to.display()
            ))
            .hint(remedy)),
        },
    }
}

/// Attributes of a directory, set when everything is in it.
struct Directory {
    path: PathBuf,
    mode: u32,
    owner: Option<(u32, u32)>,
    mtime: Option<u32>,
}

struct Extractor {
    root: OwnedFd,
    devices: bool,
    owners: bool,
    /// Paths of files that later entries may be links to.
    inodes: HashMap<(Place, (u32, u32), u32), PathBuf>,
    directories: Vec<Directory>,
    done: Extracted,
}

/// [`Doing`] for what nix returns.
trait At<T> {
    fn at(self, doing: &str, path: &Path) -> Result<T>;
}

impl<T> At<T> for nix::Result<T> {
    fn at(self, doing: &str, path: &Path) -> Result<T> {
        self.map_err(io::Error::from).doing(doing, path)
    }
}

impl Extractor {
    fn entry(&mut self, place: Place, entry: &Entry, content: &mut Content) -> Result<()> {
        let path = relative(&entry.name)?;
        let Some(name) = path.file_name() else {
            // The root itself.
            if entry.kind() == kind::DIRECTORY {
                self.directories[0] = self.attributes(path, entry);
            }
            return Ok(());
        };
        let parent = self.parent(&path)?;
        match entry.kind() {
            kind::DIRECTORY => {
                clear(&parent, name, &path, true)?;
                match mkdirat(&parent, name, Mode::S_IRWXU) {
                    Err(Errno::EEXIST) => {}
                    result => result.at("creating", &path)?,
                }
                self.done.directories += 1;
                let attributes = self.attributes(path, entry);
                self.directories.push(attributes);
                return Ok(());
            }
            kind::FILE => return self.file(place, entry, content, &parent, &path),
            kind::LINK => {
                clear(&parent, name, &path, false)?;
                let target = content.bytes(entry, 4096)?;
                symlinkat(OsStr::from_bytes(&target), &parent, name).at("linking", &path)?;
                self.done.links += 1;
            }
            kind::CHARACTER | kind::BLOCK | kind::FIFO | kind::SOCKET if self.devices => {
                clear(&parent, name, &path, false)?;
                let (major, minor) = entry.device;
                let kind = SFlag::from_bits_truncate(entry.kind());
                let device = makedev(u64::from(major), u64::from(minor));
                mknodat(&parent, name, kind, Mode::empty(), device).at("making the device node", &path)?;
                fchmodat(&parent, name, self.mode(entry), FchmodatFlags::FollowSymlink)
                    .at("setting the mode of", &path)?;
                self.done.devices += 1;
            }
            kind::CHARACTER | kind::BLOCK | kind::FIFO | kind::SOCKET => {
                self.done.devices_left_out += 1;
                return Ok(());
            }
            other => {
                let message =
                    format!("{:?}: its mode {:o} is of no kind ({other:o})", entry.text(), entry.mode);
                return Err(Error::new(message).hint(super::NOT_ONE));
            }
        }
        self.own(&parent, name, entry, &path)
    }

    fn file(
        &mut self,
        place: Place,
        entry: &Entry,
        content: &mut Content,
        parent: &OwnedFd,
        path: &Path,
    ) -> Result<()> {
        let name = path.file_name().expect("it has a parent");
        let inode = (place, entry.origin, entry.inode);
        let first = if entry.links > 1 { self.inodes.get(&inode).cloned() } else { None };
        clear(parent, name, path, false)?;
        self.done.files += 1;
        let mut flags = OFlag::O_WRONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        if let Some(first) = first {
            let directory = self.parent(&first)?;
            let first_name = first.file_name().expect("only files are kept");
            linkat(&directory, first_name, parent, name, AtFlags::empty()).at("linking", path)?;
            if entry.size == 0 {
                return Ok(());
            }
            // It may have been replaced by something that must not be opened.
            let found = fstatat(parent, name, AtFlags::AT_SYMLINK_NOFOLLOW).at("reading", path)?;
            if found.st_mode & kind::MASK != kind::FILE {
                return Err(refused(entry, "it is a link to what is no regular file any more"));
            }
            flags |= OFlag::O_TRUNC;
        } else {
            if entry.links > 1 {
                self.inodes.insert(inode, path.to_owned());
            }
            flags |= OFlag::O_CREAT | OFlag::O_EXCL;
        }
        let mut file: File =
            openat(parent, name, flags, Mode::S_IRUSR | Mode::S_IWUSR).at("creating", path)?.into();
        content.copy(entry, &mut file, path)?;
        self.done.bytes += u64::from(entry.size);
        self.own(parent, name, entry, path)?;
        fchmod(&file, self.mode(entry)).at("setting the mode of", path)?;
        file.set_modified(time(entry.mtime)).doing("setting the time of", path)
    }

    /// The directory that a path is in; made, with those above it, when no entry made it.
    fn parent(&self, path: &Path) -> Result<OwnedFd> {
        let parent = path.parent().unwrap_or(Path::new(""));
        if parent.as_os_str().is_empty() {
            return self.root.try_clone().doing("opening", path);
        }
        let how = OpenHow::new()
            .flags(OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC)
            .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
        match openat2(&self.root, parent, how) {
            Ok(found) => return Ok(found),
            Err(Errno::ENOENT) => {}
            Err(error) => return Err(error).at("opening the directory", parent),
        }
        let above = self.parent(parent)?;
        let name = parent.file_name().expect("it is not empty");
        match mkdirat(
            &above,
            name,
            Mode::S_IRWXU | Mode::S_IRGRP | Mode::S_IXGRP | Mode::S_IROTH | Mode::S_IXOTH,
        ) {
            // A link that leads to nothing inside.
            Err(Errno::EEXIST) | Ok(()) => {}
            Err(error) => return Err(error).at("creating", parent),
        }
        openat2(&self.root, parent, how).at("opening the directory", parent)
    }

    fn own(&self, parent: &OwnedFd, name: &OsStr, entry: &Entry, path: &Path) -> Result<()> {
        if !self.owners {
            return Ok(());
        }
        let (uid, gid) = (Uid::from_raw(entry.uid), Gid::from_raw(entry.gid));
        fchownat(parent, name, Some(uid), Some(gid), AtFlags::AT_SYMLINK_NOFOLLOW)
            .at("setting the owner of", path)
    }

    /// Who is not root owns what is unpacked, and nothing of it runs as somebody else.
    fn mode(&self, entry: &Entry) -> Mode {
        Mode::from_bits_truncate(entry.mode & if self.owners { 0o7777 } else { 0o1777 })
    }

    fn attributes(&self, path: PathBuf, entry: &Entry) -> Directory {
        let owner = self.owners.then_some((entry.uid, entry.gid));
        Directory { path, mode: self.mode(entry).bits(), owner, mtime: Some(entry.mtime) }
    }

    /// Modes, owners and times of directories, the deepest first: a directory may be closed to its owner.
    fn finish_directories(&mut self) -> Result<()> {
        self.directories.sort_by_key(|directory| Reverse(directory.path.components().count()));
        for directory in &self.directories {
            let path = if directory.path.as_os_str().is_empty() { Path::new(".") } else { &directory.path };
            let how = OpenHow::new()
                .flags(OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC)
                .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
            let found: File = match openat2(&self.root, path, how) {
                // A later entry of that name is something else.
                Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP) => continue,
                found => found.at("opening", path)?.into(),
            };
            if let Some((uid, gid)) = directory.owner {
                nix::unistd::fchown(&found, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))
                    .at("setting the owner of", path)?;
            }
            if let Some(mtime) = directory.mtime {
                found.set_modified(time(mtime)).doing("setting the time of", path)?;
            }
            fchmod(&found, Mode::from_bits_truncate(directory.mode)).at("setting the mode of", path)?;
        }
        Ok(())
    }
}

/// Makes room for an entry, as the kernel does: what an earlier one left goes.
fn clear(parent: &OwnedFd, name: &OsStr, path: &Path, keep_directory: bool) -> Result<()> {
    let found = match fstatat(parent, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
        Err(Errno::ENOENT) => return Ok(()),
        found => found.at("reading", path)?,
    };
    let is_directory = found.st_mode & kind::MASK == kind::DIRECTORY;
    if is_directory && keep_directory {
        return Ok(());
    }
    let flag = if is_directory { UnlinkatFlags::RemoveDir } else { UnlinkatFlags::NoRemoveDir };
    unlinkat(parent, name, flag).at("replacing", path)
}

fn time(seconds: u32) -> std::time::SystemTime {
    UNIX_EPOCH + Duration::from_secs(u64::from(seconds))
}

/// The path below the new directory.
fn relative(name: &[u8]) -> Result<PathBuf> {
    let path = absolute(name);
    let parts = path[1..].split(|byte| *byte == b'/');
    if parts.clone().any(|part| part == b"..") {
        return Err(Error::new(format!(
            "entry {:?}: its path leaves the directory",
            String::from_utf8_lossy(name)
        ))
        .hint("this is not an image as tools make them; check where it came from"));
    }
    Ok(parts.map(OsStr::from_bytes).collect())
}

fn refused(entry: &Entry, why: &str) -> Error {
    Error::new(format!("entry {:?}: {why}", entry.text()))
        .hint("this is not an image as tools make them; check where it came from")
}
