//! Changes a container root. Every change is atomic: it is written under a temporary name and renamed.

use std::ffi::{CStr, OsStr, OsString};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat, renameat};
use nix::sys::stat::{Mode, SFlag, fchmod, fstat, mkdirat, mknodat};
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchown, linkat, symlinkat, unlinkat};

use super::{EntryType, RootDir, RootError, io_error};

/// Prefix of temporary names, which library scans ignore and by which leftovers are recognised.
const TEMPORARY: &str = ".gpu-initrd-";
/// Permission bits without set-user-ID, set-group-ID and sticky.
const PERMISSIONS: u32 = 0o777;
/// Maximum number of bytes of a name that its temporary name contains.
const MAX_NAME: usize = 200;

impl RootDir {
    /// Creates `path` and its parents with mode 0755. Existing directories, also behind links, are not changed.
    pub fn create_dir_all(&self, path: &Path) -> Result<(), RootError> {
        self.make_dirs(None, path)
    }

    /// Like [`Self::create_dir_all`], with the mode and owner of the same directories in `other`.
    pub fn mirror_dir_all(&self, other: &Self, path: &Path) -> Result<(), RootError> {
        self.make_dirs(Some(other), path)
    }

    /// Copies a regular file of at most `max` bytes from the same path of `other`, with its mode and owner.
    pub fn mirror_file(&self, other: &Self, path: &Path, max: u64) -> Result<(), RootError> {
        let mut from = other.open_file(path, max)?;
        let model = fstat(&from).map_err(|e| io_error("inspect", path, e))?;
        let (uid, gid) = (Uid::from_raw(model.st_uid), Gid::from_raw(model.st_gid));
        let (dir, name) = self.parent(path)?;
        write_new(&dir, name, path, 0o600, |file| {
            io::copy(&mut from, file)?;
            fchown(&*file, Some(uid), Some(gid))?;
            // After the owner, whose change takes some of these bits away.
            fchmod(&*file, Mode::from_bits_truncate(model.st_mode & 0o7777))?;
            Ok(())
        })
    }

    fn make_dirs(&self, like: Option<&Self>, path: &Path) -> Result<(), RootError> {
        let mut here = PathBuf::from("/");
        for part in path.components() {
            match part {
                Component::Normal(name) => here.push(name),
                Component::ParentDir => here.push(".."),
                _ => continue,
            }
            if self.stat(&here).is_ok_and(|s| s.kind == EntryType::Directory) {
                continue;
            }
            let (dir, name) = self.parent(&here)?;
            let model = like.and_then(|other| fstat(other.open_dir(&here).ok()?).ok());
            let owner = model.as_ref().map(|model| (model.st_uid, model.st_gid));
            let mode = model.map_or(0o755, |model| model.st_mode & 0o7777);
            make_dir(&dir, name, mode, owner).map_err(|e| io_error("create the directory", &here, e))?;
        }
        Ok(())
    }

    /// Makes `path` a link to `target`, replacing an existing file or link. The link is durable only after
    /// [`Self::sync`].
    pub fn symlink(&self, target: &OsStr, path: &Path) -> Result<(), RootError> {
        let (dir, name) = self.parent(path)?;
        let temporary = fresh_name(&dir, name, path)?;
        cut::here()
            .and_then(|()| symlinkat(target, &dir, temporary.as_os_str()))
            .map_err(|e| io_error("link", path, e))?;
        put(&dir, &temporary, name, path)
    }

    /// Writes `bytes` to `path` with permissions `mode`, replacing an existing file. On return the
    /// bytes are on disk.
    pub fn write_atomic(&self, path: &Path, bytes: &[u8], mode: u32) -> Result<(), RootError> {
        let (dir, name) = self.parent(path)?;
        let temporary = fresh_name(&dir, name, path)?;
        write_new(&dir, &temporary, path, mode, |file| {
            file.write_all(bytes)?;
            file.sync_all()
        })?;
        put(&dir, &temporary, name, path)?;
        sync(&dir, path)
    }

    /// Writes what `fill` writes to the file `path`, with these permissions and this owner, and sets the time of its last change in
    /// seconds since 1970. It replaces an existing file or link at the end.
    pub fn receive_file(
        &self,
        path: &Path,
        mode: u32,
        (uid, gid): (u32, u32),
        modified: i64,
        fill: impl FnOnce(&mut File) -> io::Result<()>,
    ) -> Result<(), RootError> {
        let (dir, name) = self.parent(path)?;
        let temporary = fresh_name(&dir, name, path)?;
        write_new(&dir, &temporary, path, 0o600, |file| {
            fill(file)?;
            fchown(&*file, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?;
            fchmod(&*file, Mode::from_bits_truncate(mode & PERMISSIONS))?;
            let time = UNIX_EPOCH + Duration::from_secs(modified.try_into().unwrap_or_default());
            file.set_modified(time)
        })?;
        put(&dir, &temporary, name, path)
    }

    /// Creates the directory `path`, with these permissions and this owner.
    pub fn receive_dir(&self, path: &Path, mode: u32, owner: (u32, u32)) -> Result<(), RootError> {
        let (dir, name) = self.parent(path)?;
        make_dir(&dir, name, mode & PERMISSIONS, Some(owner))
            .map_err(|e| io_error("create the directory", path, e))
    }

    /// Writes a copy of `from` next to `path`, under a temporary name that library scans ignore. [`Self::commit`]
    /// renames it to `path`. The file system copies internally if it can (`copy_file_range`, reflinks). Both are
    /// durable only after [`Self::sync`].
    pub fn stage(&self, path: &Path, from: &File, mode: u32) -> Result<(), RootError> {
        let (dir, name) = self.parent(path)?;
        let temporary = fresh_name(&dir, name, path)?;
        write_new(&dir, &temporary, path, mode, |file| io::copy(&mut &*from, file).map(drop))
    }

    /// Renames the file staged for `path` to `path`.
    pub fn commit(&self, path: &Path) -> Result<(), RootError> {
        let (dir, name) = self.parent(path)?;
        put(&dir, &temporary_name(name), name, path)
    }

    /// Removes the file staged for `path`, if there is one.
    pub fn discard(&self, path: &Path) -> Result<(), RootError> {
        match self.parent(path) {
            Ok((dir, name)) => fresh_name(&dir, name, path).map(drop),
            Err(error) if error.is_not_found() => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Waits until everything written to the file system of the root is on disk.
    pub fn sync(&self) -> Result<(), RootError> {
        nix::unistd::syncfs(&self.fd).map_err(|e| io_error("sync", Path::new("/"), e))
    }

    /// Returns the free space in bytes on the file system of the directory `path`.
    pub fn free_bytes(&self, path: &Path) -> Result<u64, RootError> {
        let failed = |e| io_error("measure the free space of", path, e);
        let dir = self.open_inside(path, OFlag::O_RDONLY | OFlag::O_DIRECTORY).map_err(failed)?;
        let room = nix::sys::statvfs::fstatvfs(&dir).map_err(failed)?;
        Ok(room.blocks_available().saturating_mul(room.fragment_size()))
    }

    /// Makes `to` in this root a hard link to the file `from` of another root. Returns whether it was
    /// created.
    ///
    /// # Errors
    /// [`RootError::Io`] with `EXDEV` if they are on different file systems.
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

    /// Makes `path` a file without content that stands for `target`, a path in a data-only lower layer, when this root
    /// is an overlay's lower layer above that. Its file system must have trusted extended attributes (tmpfs, ext4).
    ///
    /// Source: Documentation/filesystems/overlayfs.rst, "Metadata only copy up" and "Data-only lower layers" (Linux 6.5).
    pub fn stand_in(&self, path: &Path, target: &Path, size: u64, mode: u32) -> Result<(), RootError> {
        let (dir, name) = self.parent(path)?;
        let temporary = fresh_name(&dir, name, path)?;
        write_new(&dir, &temporary, path, mode, |file| {
            file.set_len(size)?;
            set_attribute(file, c"trusted.overlay.metacopy", &[])?;
            set_attribute(file, c"trusted.overlay.redirect", target.as_os_str().as_bytes())
        })?;
        put(&dir, &temporary, name, path)
    }

    /// Makes `path` a whiteout, which hides the same name in lower layers of an overlay. Returns whether it
    /// was created.
    pub fn whiteout(&self, path: &Path) -> Result<bool, RootError> {
        let (dir, name) = self.parent(path)?;
        match mknodat(&dir, name, SFlag::S_IFCHR, Mode::empty(), 0) {
            Ok(()) => Ok(true),
            Err(Errno::EEXIST) if self.lstat(path).is_ok_and(|s| s.kind == EntryType::Other) => Ok(false),
            Err(e) => Err(io_error("create a whiteout for", path, e)),
        }
    }

    /// Renames `from` to the name `to` in the same directory, replacing an existing file.
    pub fn rename(&self, from: &Path, to: &OsStr) -> Result<(), RootError> {
        let (dir, name) = self.parent(from)?;
        cut::here().and_then(|()| renameat(&dir, name, &dir, to)).map_err(|e| io_error("rename", from, e))?;
        sync(&dir, from)
    }

    /// Removes the empty directory at `path`.
    pub fn remove_empty_dir(&self, path: &Path) -> Result<(), RootError> {
        let (dir, name) = self.parent(path)?;
        cut::here()
            .and_then(|()| unlinkat(&dir, name, UnlinkatFlags::RemoveDir))
            .map_err(|e| io_error("remove", path, e))
    }

    /// Removes the file or link at `path`.
    pub fn remove_file(&self, path: &Path) -> Result<(), RootError> {
        let (dir, name) = self.parent(path)?;
        cut::here()
            .and_then(|()| unlinkat(&dir, name, UnlinkatFlags::NoRemoveDir))
            .map_err(|e| io_error("remove", path, e))?;
        sync(&dir, path)
    }
}

fn set_attribute(file: &File, name: &CStr, value: &[u8]) -> io::Result<()> {
    // SAFETY: the descriptor is open, the name ends with NUL, and the kernel reads `value.len()` bytes of the value.
    let result =
        unsafe { libc::fsetxattr(file.as_raw_fd(), name.as_ptr(), value.as_ptr().cast(), value.len(), 0) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Returns the temporary name of `name`.
fn temporary_name(name: &OsStr) -> OsString {
    let mut temporary = OsString::from(TEMPORARY);
    // File names have at most 255 bytes. Truncation must not make two names equal.
    if name.len() <= MAX_NAME {
        temporary.push(name);
    } else {
        temporary.push(format!("{:016x}-", digest_of(name)));
        temporary.push(OsStr::from_bytes(&name.as_bytes()[..MAX_NAME]));
    }
    temporary
}

/// Digest that is the same in every run, so that the next run finds a leftover.
fn digest_of(name: &OsStr) -> u64 {
    use std::hash::{DefaultHasher, Hasher};
    let mut hasher = DefaultHasher::new();
    hasher.write(name.as_bytes());
    hasher.finish()
}

/// Creates a directory with this mode, whatever the umask, and this owner; `None`: that of this process.
fn make_dir(dir: &OwnedFd, name: &OsStr, mode: u32, owner: Option<(u32, u32)>) -> nix::Result<()> {
    // Nobody else enters it before it has its owner.
    cut::here().and_then(|()| mkdirat(dir, name, Mode::from_bits_truncate(0o700)))?;
    let made = openat(dir, name, OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC, Mode::empty())?;
    if let Some((uid, gid)) = owner {
        fchown(&made, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?;
    }
    fchmod(&made, Mode::from_bits_truncate(mode))
}

/// Returns a free temporary name in `dir`, after removing the leftover of an earlier run.
fn fresh_name(dir: &OwnedFd, name: &OsStr, path: &Path) -> Result<OsString, RootError> {
    let temporary = temporary_name(name);
    match cut::here().and_then(|()| unlinkat(dir, temporary.as_os_str(), UnlinkatFlags::NoRemoveDir)) {
        Ok(()) | Err(Errno::ENOENT) => Ok(temporary),
        Err(e) => Err(io_error("prepare a temporary name for", path, e)),
    }
}

/// Creates and fills the file `name`. On failure the file is removed.
fn write_new(
    dir: &OwnedFd,
    name: &OsStr,
    path: &Path,
    mode: u32,
    fill: impl FnOnce(&mut File) -> io::Result<()>,
) -> Result<(), RootError> {
    let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let fd = cut::here()
        .and_then(|()| openat(dir, name, flags, Mode::from_bits_truncate(0o600)))
        .map_err(|e| io_error("create", path, e))?;
    let mut file = File::from(fd);
    // open obeys the umask.
    let written = fchmod(file.as_fd(), Mode::from_bits_truncate(mode)).map_err(io::Error::from);
    if let Err(source) = written.and_then(|()| fill(&mut file)) {
        // The write has failed already; a failure to remove the leftover does not matter.
        let _ = cut::here().and_then(|()| unlinkat(dir, name, UnlinkatFlags::NoRemoveDir));
        return Err(RootError::Io { action: "write", path: path.to_owned(), source });
    }
    Ok(())
}

fn put(dir: &OwnedFd, temporary: &OsStr, name: &OsStr, path: &Path) -> Result<(), RootError> {
    if let Err(e) = cut::here().and_then(|()| renameat(dir, temporary, dir, name)) {
        let _ = cut::here().and_then(|()| unlinkat(dir, temporary, UnlinkatFlags::NoRemoveDir));
        return Err(io_error("replace", path, e));
    }
    Ok(())
}

fn sync(dir: &OwnedFd, path: &Path) -> Result<(), RootError> {
    match nix::unistd::fsync(dir) {
        // Some file systems cannot sync a directory.
        Ok(()) | Err(Errno::EINVAL | Errno::EROFS) => Ok(()),
        Err(e) => Err(io_error("sync the directory of", path, e)),
    }
}

/// Where tests cut the power: every change passes here.
#[cfg(not(test))]
mod cut {
    #[allow(clippy::unnecessary_wraps, reason = "the twin for tests fails")]
    pub(super) fn here() -> nix::Result<()> {
        Ok(())
    }
}

/// Where tests cut the power: every change passes here.
#[cfg(test)]
pub(crate) mod cut {
    use std::cell::Cell;

    thread_local! {
        static LEFT: Cell<Option<usize>> = const { Cell::new(None) };
    }

    /// After this many more changes on this thread, none has an effect any more. `None`: no cut.
    pub(crate) fn after(changes: Option<usize>) {
        LEFT.set(changes);
    }

    pub(super) fn here() -> nix::Result<()> {
        match LEFT.get() {
            Some(0) => Err(nix::errno::Errno::EIO),
            left => {
                LEFT.set(left.map(|left| left - 1));
                Ok(())
            }
        }
    }
}
