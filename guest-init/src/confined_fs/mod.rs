//! The container root, behind one directory descriptor.
//!
//! The root is hostile: its links may be absolute, climb with `..`, or point into /proc to reach PID 1's own
//! root. So no path of the container is ever handed to the kernel as a plain path. Every lookup is an
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

pub use self::read::{is_file_name, read_full_at};
#[cfg(test)]
pub(crate) use self::write::cut;

/// Names in one directory. Large images have about 5000 in /usr/lib/x86_64-linux-gnu.
const MAX_NAMES: usize = 100_000;
/// Names in all the directories that are listed through one [`RootDir`]: far more than the directories of libraries of any image have, and
/// a bound on what many directories at the limit cost.
const MAX_NAMES_IN_ALL: usize = 1_000_000;
/// The kernel takes no longer path, bytes; nor does any loader.
const MAX_PATH: usize = 4095;
/// Links followed for one path, as in the kernel.
const MAX_LINKS: usize = 40;
/// Names walked for one path that is made canonical, those in links included.
const MAX_STEPS: usize = 512;

/// Why something in the container root could not be done.
#[derive(Debug, thiserror::Error)]
pub enum RootError {
    /// The directory itself cannot be opened.
    #[error("cannot open the root directory {}", path.display())]
    Open {
        /// Which directory of our own root.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The system refused.
    #[error("cannot {action} {} in the container root", path.display())]
    Io {
        /// What was being done.
        action: &'static str,
        /// To which path, seen from the container root.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Something that should be a regular file is none.
    #[error("{} in the container root: expected a regular file, found {found}", path.display())]
    NotRegular {
        /// Which path.
        path: PathBuf,
        /// What it is.
        found: &'static str,
    },
    /// More bytes or names than we take from a root we do not trust.
    #[error("{} in the container root has {found} {unit}, expected at most {limit}", path.display())]
    TooLarge {
        /// Which path.
        path: PathBuf,
        /// How many.
        found: u64,
        /// Of what.
        unit: &'static str,
        /// What we accept.
        limit: u64,
    },
    /// The path has no last name to act on (it is `/`, or ends in `..`).
    #[error("{}: expected a path that ends in a name", path.display())]
    NoName {
        /// Which path.
        path: PathBuf,
    },
}

impl RootError {
    /// Whether the path, or a directory on the way to it, does not exist.
    pub fn is_not_found(&self) -> bool {
        matches!(self.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR))
    }

    /// The errno, when the system refused.
    pub fn raw_os_error(&self) -> Option<i32> {
        match self {
            Self::Open { source, .. } | Self::Io { source, .. } => source.raw_os_error(),
            _ => None,
        }
    }
}

/// What a name in a directory stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Regular file.
    File,
    /// Directory.
    Directory,
    /// Symbolic link.
    Link,
    /// Device, FIFO or socket.
    Other,
}

impl Kind {
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

/// One name in a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirEntry {
    /// The name, without a slash.
    pub name: OsString,
    /// What it stands for, links not followed.
    pub kind: Kind,
}

/// What `stat` says, as far as it matters here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stat {
    /// Device that holds the file.
    pub dev: u64,
    /// Inode: with `dev`, the identity of the file.
    pub ino: u64,
    /// What it is.
    pub kind: Kind,
    /// Size in bytes.
    pub size: u64,
    /// Permission bits.
    pub mode: u32,
    /// When its content was last changed, nanoseconds since 1970.
    pub modified_ns: i64,
}

impl From<&FileStat> for Stat {
    fn from(stat: &FileStat) -> Self {
        Self {
            dev: stat.st_dev,
            ino: stat.st_ino,
            kind: Kind::of(stat),
            size: u64::try_from(stat.st_size).unwrap_or_default(),
            mode: stat.st_mode & 0o7777,
            modified_ns: stat.st_mtime.saturating_mul(1_000_000_000).saturating_add(stat.st_mtime_nsec),
        }
    }
}

/// The root directory of a container. All paths given to its methods are seen from there, with or without a
/// leading slash.
#[derive(Debug)]
pub struct RootDir {
    fd: OwnedFd,
    /// Names that may still be listed.
    names_left: AtomicUsize,
}

impl RootDir {
    /// Opens `path`, a directory of our own root that holds a container.
    ///
    /// # Errors
    /// [`RootError::Open`] when it cannot be opened or is no directory.
    pub fn open(path: &Path) -> Result<Self, RootError> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let fd = nix::fcntl::open(path, flags, nix::sys::stat::Mode::empty())
            .map_err(|e| RootError::Open { path: path.to_owned(), source: e.into() })?;
        Ok(Self { fd, names_left: AtomicUsize::new(MAX_NAMES_IN_ALL) })
    }

    /// A directory of this root as a root of its own: no path given to it leads out.
    ///
    /// # Errors
    /// [`RootError::Io`] when there is no such directory.
    pub fn below(&self, path: &Path) -> Result<Self, RootError> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY;
        let fd = self.open_inside(path, flags).map_err(|e| io_error("open", path, e))?;
        Ok(Self { fd, names_left: AtomicUsize::new(MAX_NAMES_IN_ALL) })
    }

    /// The one way in: opens `path` inside the root.
    fn open_inside(&self, path: &Path, flags: OFlag) -> nix::Result<OwnedFd> {
        let how = OpenHow::new()
            .flags(flags | OFlag::O_CLOEXEC)
            .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
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

    /// Opens the directory that holds the last name of `path`, to act on that name.
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
