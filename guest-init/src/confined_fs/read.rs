//! Reads files and directories of a container root.

use std::ffi::{CString, OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::FileExt;
use std::path::{Component, Path, PathBuf};
use std::sync::atomic::Ordering;

use nix::dir::{Dir, Type};
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, ResolveFlag, openat, readlinkat};
use nix::sys::stat::{Mode, SFlag, fstat, fstatat};

use super::{
    DirEntry, EntryType, MAX_LINKS, MAX_NAMES, MAX_PATH, MAX_STEPS, RootDir, RootError, Stat, io_error,
};

impl RootDir {
    /// Opens a regular file of at most `max` bytes for reading. Links are followed inside the root.
    ///
    /// # Errors
    /// [`RootError::NotRegular`] for any other kind of file, which is not opened, since opening a device can have
    /// side effects.
    pub fn open_file(&self, path: &Path, max: u64) -> Result<File, RootError> {
        let failed = |e| io_error("open", path, e);
        let look = self.open_inside(path, OFlag::O_PATH).map_err(failed)?;
        let before = Stat::from(&fstat(&look).map_err(failed)?);
        check_regular(path, before, max)?;
        let fd =
            self.open_inside(path, OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY).map_err(failed)?;
        check_regular(path, Stat::from(&fstat(&fd).map_err(failed)?), max)?;
        Ok(File::from(fd))
    }

    /// Opens a device. The caller checks that it is the expected one.
    pub fn open_device(&self, path: &Path, flags: OFlag) -> Result<OwnedFd, RootError> {
        let failed = |e| io_error("open", path, e);
        let look = self.open_inside(path, OFlag::O_PATH).map_err(failed)?;
        let kind = SFlag::from_bits_truncate(fstat(&look).map_err(failed)?.st_mode & SFlag::S_IFMT.bits());
        if kind != SFlag::S_IFCHR {
            return Err(failed(Errno::ENXIO));
        }
        self.open_inside(path, flags | OFlag::O_NONBLOCK).map_err(failed)
    }

    /// Reads a whole regular file of at most `max` bytes.
    ///
    /// # Errors
    /// [`RootError::TooLarge`] when it is larger, even if it only grows while it is read.
    pub fn read(&self, path: &Path, max: u64) -> Result<Vec<u8>, RootError> {
        let file = self.open_file(path, max)?;
        let mut bytes = Vec::new();
        let read = |source| RootError::Io { action: "read", path: path.to_owned(), source };
        file.take(max.saturating_add(1)).read_to_end(&mut bytes).map_err(read)?;
        let found = bytes.len() as u64;
        if found > max {
            return Err(RootError::TooLarge { path: path.to_owned(), found, unit: "bytes", limit: max });
        }
        Ok(bytes)
    }

    /// Lists a directory in the order of the file system, without `.` and `..`.
    ///
    /// # Errors
    /// [`RootError::TooLarge`] beyond 100000 names here, or a million in all the directories listed so far.
    pub fn list(&self, path: &Path) -> Result<Vec<DirEntry>, RootError> {
        Ok(self.directory(path)?.entries)
    }

    /// Opens and lists a directory.
    ///
    /// # Errors
    /// As [`list`](Self::list).
    pub fn directory(&self, path: &Path) -> Result<Directory, RootError> {
        let failed = |e| io_error("list", path, e);
        let fd = self.open_inside(path, OFlag::O_RDONLY | OFlag::O_DIRECTORY).map_err(failed)?;
        let mut dir = Dir::from_fd(fd).map_err(failed)?;
        let mut unknown = Vec::new();
        let mut entries = Vec::new();
        // The limit is shared by threads, which may exceed it by a few names.
        let most = MAX_NAMES.min(self.names_left.load(Ordering::Relaxed));
        for entry in dir.iter() {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name().to_bytes();
            if name == b"." || name == b".." {
                continue;
            }
            if entries.len() == most {
                let (found, limit) = (most as u64 + 1, most as u64);
                return Err(RootError::TooLarge { path: path.to_owned(), found, unit: "names", limit });
            }
            let kind = match entry.file_type() {
                Some(Type::File) => EntryType::File,
                Some(Type::Directory) => EntryType::Directory,
                Some(Type::Symlink) => EntryType::Link,
                Some(_) => EntryType::Other,
                None => {
                    unknown.push(entries.len());
                    EntryType::Other
                }
            };
            entries.push(DirEntry { name: OsString::from_vec(name.to_vec()), kind });
        }
        let rest = |left: usize| Some(left.saturating_sub(entries.len()));
        let _ = self.names_left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, rest);
        // Some file systems do not report the kind in a listing.
        for index in unknown {
            let entry = &mut entries[index];
            let stat = fstatat(dir.as_fd(), entry.name.as_os_str(), AtFlags::AT_SYMLINK_NOFOLLOW);
            entry.kind = stat.map_or(EntryType::Other, |s| EntryType::of(&s));
        }
        Ok(Directory { path: path.to_owned(), fd: dir, entries })
    }

    /// Returns the metadata of `path`, following links inside the root.
    pub fn stat(&self, path: &Path) -> Result<Stat, RootError> {
        let failed = |e| io_error("inspect", path, e);
        let fd = self.open_inside(path, OFlag::O_PATH).map_err(failed)?;
        Ok(Stat::from(&fstat(&fd).map_err(failed)?))
    }

    /// Returns the metadata of `path`, without following a link at its end.
    pub fn lstat(&self, path: &Path) -> Result<Stat, RootError> {
        let failed = |e| io_error("inspect", path, e);
        let fd = self.open_inside(path, OFlag::O_PATH | OFlag::O_NOFOLLOW).map_err(failed)?;
        Ok(Stat::from(&fstat(&fd).map_err(failed)?))
    }

    /// Opens the directory at `path`, to mount on it or to change it.
    ///
    /// # Errors
    /// [`RootError::Io`] when there is no such directory.
    pub fn open_dir(&self, path: &Path) -> Result<OwnedFd, RootError> {
        self.open_inside(path, OFlag::O_PATH | OFlag::O_DIRECTORY).map_err(|e| io_error("open", path, e))
    }

    /// Returns whether `path` exists, following links.
    pub fn exists(&self, path: &Path) -> bool {
        self.stat(path).is_ok()
    }

    /// Returns the target of the link at `path`, unresolved.
    pub fn read_link(&self, path: &Path) -> Result<PathBuf, RootError> {
        let failed = |e| io_error("read the link", path, e);
        let fd = self.open_inside(path, OFlag::O_PATH | OFlag::O_NOFOLLOW).map_err(failed)?;
        Ok(readlinkat(&fd, "").map_err(failed)?.into())
    }

    /// Resolves `path` inside the root: the result is absolute, without links, `.` and `..`.
    ///
    /// # Errors
    /// [`RootError::Io`] when a part does not exist, after 40 links or 512 names, or for a path longer than 4095 bytes.
    pub fn canonical(&self, path: &Path) -> Result<PathBuf, RootError> {
        // Most paths have no link, and the kernel knows at once.
        match self.open_as(path, OFlag::O_PATH, ResolveFlag::RESOLVE_NO_SYMLINKS) {
            Ok(_) => return Ok(without_dots(path)),
            Err(Errno::ENOENT) => return Err(io_error("resolve", path, Errno::ENOENT)),
            Err(_) => {}
        }
        let (mut links, mut steps) = (0, 0);
        let mut done = PathBuf::from("/");
        // Components still to walk, the next one last.
        let mut todo: Vec<OsString> = Vec::new();
        push_components(&mut todo, path);
        while let Some(name) = todo.pop() {
            if name == ".." {
                done.pop();
                continue;
            }
            steps += 1;
            if steps > MAX_STEPS {
                return Err(io_error("resolve", path, Errno::ENAMETOOLONG));
            }
            let here = done.join(&name);
            if here.as_os_str().len() > MAX_PATH {
                return Err(io_error("resolve", path, Errno::ENAMETOOLONG));
            }
            if self.lstat(&here)?.kind != EntryType::Link {
                done = here;
                continue;
            }
            links += 1;
            if links > MAX_LINKS {
                return Err(io_error("resolve", path, Errno::ELOOP));
            }
            let target = self.read_link(&here)?;
            if target.is_absolute() {
                done = PathBuf::from("/");
            }
            push_components(&mut todo, &target);
        }
        Ok(done)
    }
}

impl RootDir {
    /// Resolves the existing part of `path` and appends the rest unchanged.
    pub fn canonical_as_far(&self, path: &Path) -> PathBuf {
        match (self.canonical(path), path.parent(), path.file_name()) {
            (Ok(canonical), ..) => canonical,
            (Err(_), Some(parent), Some(name)) => self.canonical_as_far(parent).join(name),
            _ => path.to_owned(),
        }
    }
}

/// A directory of a root. Its names are looked up without their way from the root.
pub struct Directory {
    path: PathBuf,
    fd: Dir,
    /// What it had when it was opened, in the order of the file system, without `.` and `..`.
    pub entries: Vec<DirEntry>,
}

impl Directory {
    /// Opens a regular file of at most `max` bytes, which is not a link, by its name in the list.
    ///
    /// # Errors
    /// [`RootError::NotRegular`] for any other kind of file, which is not opened.
    pub fn open_file(&self, name: &OsStr, max: u64) -> Result<(File, Stat), RootError> {
        let failed = |e| io_error("open", &self.path.join(name), e);
        // The kind in the list is what the file system says, which need not be true.
        let before = fstatat(&self.fd, name, AtFlags::AT_SYMLINK_NOFOLLOW).map_err(failed)?;
        check_regular(&self.path.join(name), Stat::from(&before), max)?;
        let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_NOFOLLOW;
        let fd = openat(&self.fd, name, flags | OFlag::O_CLOEXEC, Mode::empty()).map_err(failed)?;
        let stat = Stat::from(&fstat(&fd).map_err(failed)?);
        check_regular(&self.path.join(name), stat, max)?;
        Ok((File::from(fd), stat))
    }

    /// Returns the target of a link by its name in the list, unresolved.
    ///
    /// # Errors
    /// [`RootError::Io`] if it is no link any more.
    pub fn read_link(&self, name: &OsStr) -> Result<OsString, RootError> {
        target_of(&self.fd, name).map_err(|e| io_error("read the link", &self.path.join(name), e))
    }
}

/// Returns the target of a link by its name in a directory. (nix's function allocates the longest path each time, which is a mapping of its
/// own in musl.)
fn target_of(directory: &impl AsFd, name: &OsStr) -> nix::Result<OsString> {
    let name = CString::new(name.as_bytes()).map_err(|_| Errno::EINVAL)?;
    let mut target = [0_u8; MAX_PATH + 1];
    // SAFETY: the descriptor is open, the name ends in a NUL, and the kernel writes at most the length of the buffer, which lives on.
    let length = unsafe {
        libc::readlinkat(
            directory.as_fd().as_raw_fd(),
            name.as_ptr(),
            target.as_mut_ptr().cast(),
            target.len(),
        )
    };
    let length = usize::try_from(Errno::result(length)?).unwrap_or_default();
    Ok(OsString::from_vec(target[..length].to_vec()))
}

/// Returns the absolute form of a path without links, `.` and `..`.
fn without_dots(path: &Path) -> PathBuf {
    let mut parts = Vec::new();
    push_components(&mut parts, path);
    let mut done = PathBuf::from("/");
    for part in parts.into_iter().rev() {
        if part == ".." {
            done.pop();
        } else {
            done.push(part);
        }
    }
    done
}

fn push_components(todo: &mut Vec<OsString>, path: &Path) {
    for part in path.components().rev() {
        match part {
            Component::Normal(name) => todo.push(name.to_owned()),
            Component::ParentDir => todo.push("..".into()),
            Component::CurDir | Component::RootDir | Component::Prefix(_) => {}
        }
    }
}

fn check_regular(path: &Path, stat: Stat, max: u64) -> Result<(), RootError> {
    if stat.kind != EntryType::File {
        return Err(RootError::NotRegular { path: path.to_owned(), found: stat.kind.describe() });
    }
    if stat.size > max {
        return Err(RootError::TooLarge {
            path: path.to_owned(),
            found: stat.size,
            unit: "bytes",
            limit: max,
        });
    }
    Ok(())
}

/// Returns whether a string is a valid file name: not empty, no slash, not `.` or `..`, at most 255 bytes.
pub fn is_file_name(name: &OsStr) -> bool {
    let bytes = name.as_bytes();
    !matches!(bytes, b"" | b"." | b"..")
        && bytes.len() <= 255
        && !bytes.contains(&b'/')
        && !bytes.contains(&0)
}

/// Reads from offset `at` until `buf` is full or the file ends. Returns the number of bytes read.
pub fn read_full_at(file: &File, buf: &mut [u8], at: u64) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buf.len() {
        match file.read_at(&mut buf[filled..], at.saturating_add(filled as u64)) {
            Ok(0) => break,
            Ok(len) => filled += len,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(filled)
}
