//! Changing a container root. A change appears whole or not at all: it is made under a temporary name and
//! renamed.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat, renameat};
use nix::sys::stat::{Mode, SFlag, fchmod, mkdirat, mknodat};
use nix::unistd::{UnlinkatFlags, linkat, symlinkat, unlinkat};

use super::{Kind, RootDir, RootError, io_error};

/// Temporary names begin with this, so that no scan takes them for a library, and a leftover is recognised.
const TEMPORARY: &str = ".gpu-initrd-";

impl RootDir {
    /// Makes `path` and its parents, mode 0755. Directories that exist, also through links, are left alone.
    pub fn create_dir_all(&self, path: &Path) -> Result<(), RootError> {
        let mut here = PathBuf::from("/");
        for part in path.components() {
            match part {
                Component::Normal(name) => here.push(name),
                Component::ParentDir => here.push(".."),
                _ => continue,
            }
            if self.stat(&here).is_ok_and(|s| s.kind == Kind::Directory) {
                continue;
            }
            let (dir, name) = self.parent(&here)?;
            let failed = |e| io_error("make the directory", &here, e);
            mkdirat(&dir, name, Mode::from_bits_truncate(0o755)).map_err(failed)?;
            // mkdir obeys the umask.
            let made =
                openat(&dir, name, OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC, Mode::empty())
                    .map_err(failed)?;
            fchmod(&made, Mode::from_bits_truncate(0o755)).map_err(failed)?;
        }
        Ok(())
    }

    /// Makes `path` a link to `target`, replacing a file or link that is there.
    pub fn symlink(&self, target: &OsStr, path: &Path) -> Result<(), RootError> {
        let (dir, name) = self.parent(path)?;
        let temporary = fresh_name(&dir, name, path)?;
        symlinkat(target, &dir, temporary.as_os_str()).map_err(|e| io_error("link", path, e))?;
        put(&dir, &temporary, name, path)
    }

    /// Writes `bytes` to `path` with permissions `mode`, replacing what is there. On return they are on the
    /// disk.
    pub fn write_atomic(&self, path: &Path, bytes: &[u8], mode: u32) -> Result<(), RootError> {
        self.copy_atomic(path, &mut &bytes[..], mode)
    }

    /// Like [`RootDir::write_atomic`], from a reader.
    pub fn copy_atomic(&self, path: &Path, from: &mut dyn Read, mode: u32) -> Result<(), RootError> {
        let (dir, name) = self.parent(path)?;
        let temporary = fresh_name(&dir, name, path)?;
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let fd = openat(&dir, temporary.as_os_str(), flags, Mode::from_bits_truncate(0o600))
            .map_err(|e| io_error("create", path, e))?;
        let written = fill(&mut File::from(fd), from, mode);
        if let Err(source) = written {
            // The write has failed; a leftover that cannot be removed either changes nothing about that.
            let _ = unlinkat(&dir, temporary.as_os_str(), UnlinkatFlags::NoRemoveDir);
            return Err(RootError::Io { action: "write", path: path.to_owned(), source });
        }
        put(&dir, &temporary, name, path)
    }

    /// Makes `to` in this root a hard link to the file `from` of another root. Returns whether it had to be
    /// made.
    ///
    /// # Errors
    /// [`RootError::Io`] with `EXDEV` when they are on different file systems.
    pub fn hard_link(&self, other: &Self, from: &Path, to: &Path) -> Result<bool, RootError> {
        if let (Ok(a), Ok(b)) = (other.lstat(from), self.lstat(to))
            && (a.dev, a.ino) == (b.dev, b.ino)
        {
            // Renaming a file to another of its own names does nothing, and would leave the temporary one.
            return Ok(false);
        }
        let (from_dir, from_name) = other.parent(from)?;
        let (dir, name) = self.parent(to)?;
        let temporary = fresh_name(&dir, name, to)?;
        linkat(&from_dir, from_name, &dir, temporary.as_os_str(), AtFlags::empty())
            .map_err(|e| io_error("hard-link", to, e))?;
        put(&dir, &temporary, name, to)?;
        Ok(true)
    }

    /// Makes `path` a whiteout: in an overlay, the same name in the layers below is gone. Returns whether it
    /// had to be made.
    pub fn whiteout(&self, path: &Path) -> Result<bool, RootError> {
        let (dir, name) = self.parent(path)?;
        match mknodat(&dir, name, SFlag::S_IFCHR, Mode::empty(), 0) {
            Ok(()) => Ok(true),
            Err(Errno::EEXIST) if self.lstat(path).is_ok_and(|s| s.kind == Kind::Other) => Ok(false),
            Err(e) => Err(io_error("make a whiteout for", path, e)),
        }
    }

    /// Renames `from` to the name `to` in the same directory, replacing what is there.
    pub fn rename(&self, from: &Path, to: &OsStr) -> Result<(), RootError> {
        let (dir, name) = self.parent(from)?;
        renameat(&dir, name, &dir, to).map_err(|e| io_error("rename", from, e))?;
        sync(&dir, from)
    }

    /// Removes the file or link at `path`.
    pub fn remove_file(&self, path: &Path) -> Result<(), RootError> {
        let (dir, name) = self.parent(path)?;
        unlinkat(&dir, name, UnlinkatFlags::NoRemoveDir).map_err(|e| io_error("remove", path, e))?;
        sync(&dir, path)
    }
}

/// A name in `dir` that is free. What an earlier run left under it is removed.
fn fresh_name(dir: &OwnedFd, name: &OsStr, path: &Path) -> Result<OsString, RootError> {
    let mut temporary = OsString::from(TEMPORARY);
    // File names end at 255 bytes.
    temporary.push(if name.len() > 200 { OsStr::new("long-name") } else { name });
    match unlinkat(dir, temporary.as_os_str(), UnlinkatFlags::NoRemoveDir) {
        Ok(()) | Err(Errno::ENOENT) => Ok(temporary),
        Err(e) => Err(io_error("prepare a temporary name for", path, e)),
    }
}

fn fill(file: &mut File, from: &mut dyn Read, mode: u32) -> io::Result<()> {
    let mut buf = vec![0_u8; 64 * 1024];
    loop {
        match from.read(&mut buf) {
            Ok(0) => break,
            Ok(len) => file.write_all(&buf[..len])?,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    // open obeys the umask.
    fchmod(file.as_fd(), Mode::from_bits_truncate(mode))?;
    file.sync_all()
}

fn put(dir: &OwnedFd, temporary: &OsStr, name: &OsStr, path: &Path) -> Result<(), RootError> {
    if let Err(e) = renameat(dir, temporary, dir, name) {
        let _ = unlinkat(dir, temporary, UnlinkatFlags::NoRemoveDir);
        return Err(io_error("replace", path, e));
    }
    sync(dir, path)
}

fn sync(dir: &OwnedFd, path: &Path) -> Result<(), RootError> {
    match nix::unistd::fsync(dir) {
        // Some file systems cannot sync a directory.
        Ok(()) | Err(Errno::EINVAL | Errno::EROFS) => Ok(()),
        Err(e) => Err(io_error("sync the directory of", path, e)),
    }
}
