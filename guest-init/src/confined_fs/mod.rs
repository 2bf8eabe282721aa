//! Access to the container root through one directory descriptor.
//!
//! The root is hostile: its links may be absolute, climb with `..`, or point into /proc to reach PID 1's own
//! root. So no path of the container is ever passed to the kernel as a plain path. Every lookup is an
//! `openat2` that resolves inside the root and follows no magic links, and every change acts on a name in an
//! opened directory.

mod read;
#[cfg(test)]
mod tests;
mod write;

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path, PathBuf};
use std::sync::atomic::AtomicUsize;

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::{FileStat, SFlag};

pub use self::read::{Directory, is_file_name, read_full_at};
#[cfg(test)]
pub(crate) use self::write::cut;

/// Maximum number of names in one directory. Large images have about 5000 in /usr/lib/x86_64-linux-gnu.
const MAX_NAMES: usize = 100_000;
/// Maximum number of names in all directories listed through one [`RootDir`]. It is far above the library directories of any
/// image, and limits the cost of many directories at the limit.
const MAX_NAMES_IN_ALL: usize = 1_000_000;
/// Maximum length of a path in bytes, for the kernel and for loaders.
const MAX_PATH: usize = 4095;
/// Maximum number of links followed for one path, as in the kernel.
const MAX_LINKS: usize = 40;
/// Maximum number of names resolved for one canonical path, including those in links.
const MAX_STEPS: usize = 512;

/// Why an operation in the container root failed.
#[derive(Debug, thiserror::Error)]
pub enum RootError {
    /// The directory itself cannot be opened.
    #[error("cannot open the root directory {}", path.display())]
    Open {
        /// The directory, in guest-init's root.
        path: PathBuf,
        /// The error of the system.
        #[source]
        source: io::Error,
    },
    /// A system call failed.
    #[error("cannot {action} {} in the container root", path.display())]
    Io {
        /// The operation.
        action: &'static str,
        /// The path in the container root.
        path: PathBuf,
        /// The error of the system.
        #[source]
        source: io::Error,
    },
    /// A file is not a regular file.
    #[error("{} in the container root: expected a regular file, found {found}", path.display())]
    NotRegular {
        /// Which path.
        path: PathBuf,
        /// What it is.
        found: &'static str,
    },
    /// More bytes or names than are accepted from an untrusted root.
    #[error("{} in the container root has {found} {unit}, expected at most {limit}", path.display())]
    TooLarge {
        /// Which path.
        path: PathBuf,
        /// The number found.
        found: u64,
        /// The unit.
        unit: &'static str,
        /// The maximum.
        limit: u64,
    },
    /// The path does not end in a name (it is `/`, or ends in `..`).
    #[error("{}: expected a path that ends in a name", path.display())]
    NoName {
        /// Which path.
        path: PathBuf,
    },
}

impl RootError {
    /// Returns whether the path or a parent directory does not exist.
    pub fn is_not_found(&self) -> bool {
        matches!(self.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR))
    }

    /// Returns the errno of a failed system call.
    pub fn raw_os_error(&self) -> Option<i32> {
        match self {
            Self::Open { source, .. } | Self::Io { source, .. } => source.raw_os_error(),
            _ => None,
        }
    }
}

/// EntryType of a directory entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryType {
    /// Regular file.
    File,
    /// Directory.
    Directory,
    /// Symbolic link.
    Link,
    /// Device, FIFO or socket.
    Other,
}

impl EntryType {
    fn of(stat: &FileStat) -> Self {
        match SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits()) {
            SFlag::S_IFREG => Self::File,
            SFlag::S_IFDIR => Self::Directory,
            SFlag::S_IFLNK => Self::Link,
            _ => Self::Other,
        }
    }

    fn describe(self) -> &'static str {
        match self {
            Self::File => "a regular file",
            Self::Directory => "a directory",
            Self::Link => "a symbolic link",
            Self::Other => "a device, FIFO or socket",
        }
    }
}

/// One directory entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirEntry {
    /// The name, without a slash.
    pub name: OsString,
    /// Its kind; links are not followed.
    pub kind: EntryType,
}

/// The part of `stat` that is used here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stat {
    /// Device of the file.
    pub dev: u64,
    /// Inode: with `dev`, the identity of the file.
    pub ino: u64,
    /// What it is.
    pub kind: EntryType,
    /// Size in bytes.
    pub size: u64,
    /// Permission bits.
    pub mode: u32,
    /// Time of the last change of its content, in nanoseconds since 1970.
    pub modified_ns: i64,
}

impl From<&FileStat> for Stat {
    fn from(stat: &FileStat) -> Self {
        Self {
            dev: stat.st_dev,
            ino: stat.st_ino,
            kind: EntryType::of(stat),
            size: u64::try_from(stat.st_size).unwrap_or_default(),
            mode: stat.st_mode & 0o7777,
            modified_ns: stat.st_mtime.saturating_mul(1_000_000_000).saturating_add(stat.st_mtime_nsec),
        }
    }
}

/// The root directory of a container. All paths are relative to it, with or without a leading
/// slash.
#[derive(Debug)]
pub struct RootDir {
    fd: OwnedFd,
    /// Number of names that may still be listed.
    names_left: AtomicUsize,
}

impl RootDir {
    /// Opens `path`, a directory in guest-init's root that contains a container root.
    ///
    /// # Errors
    /// [`RootError::Open`] if it cannot be opened or is not a directory.
    pub fn open(path: &Path) -> Result<Self, RootError> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let fd = nix::fcntl::open(path, flags, nix::sys::stat::Mode::empty())
            .map_err(|e| RootError::Open { path: path.to_owned(), source: e.into() })?;
        Ok(Self { fd, names_left: AtomicUsize::new(MAX_NAMES_IN_ALL) })
    }

    /// Opens a directory of this root as a root, which no path can leave.
    ///
    /// # Errors
    /// [`RootError::Io`] if there is no such directory.
    pub fn below(&self, path: &Path) -> Result<Self, RootError> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY;
        let fd = self.open_inside(path, flags).map_err(|e| io_error("open", path, e))?;
        Ok(Self { fd, names_left: AtomicUsize::new(MAX_NAMES_IN_ALL) })
    }

    /// Opens `path` inside the root.
    fn open_inside(&self, path: &Path, flags: OFlag) -> nix::Result<OwnedFd> {
        self.open_as(path, flags, ResolveFlag::empty())
    }

    /// [`open_inside`](Self::open_inside) with more restrictions. Every path is resolved by this function.
    fn open_as(&self, path: &Path, flags: OFlag, restrictions: ResolveFlag) -> nix::Result<OwnedFd> {
        let inside = ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS;
        let how = OpenHow::new().flags(flags | OFlag::O_CLOEXEC).resolve(inside | restrictions);
        let path = if path.as_os_str().is_empty() { Path::new("/") } else { path };
        // The kernel gives up with EAGAIN when something on the way is renamed meanwhile.
        for _ in 0..16 {
            match openat2(&self.fd, path, how) {
                Err(Errno::EAGAIN | Errno::EINTR) => {}
                other => return other,
            }
        }
        Err(Errno::EAGAIN)
    }

    /// Opens the parent directory of `path`, to operate on the last name.
    fn parent<'a>(&self, path: &'a Path) -> Result<(OwnedFd, &'a OsStr), RootError> {
        let Some(Component::Normal(name)) = path.components().next_back() else {
            return Err(RootError::NoName { path: path.to_owned() });
        };
        let dir = path.parent().unwrap_or(Path::new("/"));
        let fd = self
            .open_inside(dir, OFlag::O_RDONLY | OFlag::O_DIRECTORY)
            .map_err(|e| io_error("open", dir, e))?;
        Ok((fd, name))
    }
}

impl AsFd for RootDir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn io_error(action: &'static str, path: &Path, errno: Errno) -> RootError {
    RootError::Io { action, path: path.to_owned(), source: errno.into() }
}
