//! A host below a root directory, `/` or a fake one for tests. /sys, /proc and /dev are read, never
//! written.

use crate::common::error::{Error, Result};
use nix::fcntl::AtFlags;
use nix::unistd::{AccessFlags, faccessat};
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// Most bytes that are read from a file of /sys or /proc. /proc/cpuinfo of a large machine has
/// about a megabyte.
const MAX_BYTES: u64 = 8 << 20;
/// Most entries that are read from a directory.
const MAX_ENTRIES: usize = 65_536;

/// A host.
#[derive(Debug, Clone)]
pub struct HostRoot {
    root: PathBuf,
}

/// Whether this user can use a device node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Node {
    /// It can be opened for reading and writing, as far as its mode says.
    Usable,
    /// It exists, but its mode forbids it.
    Forbidden,
    /// It does not exist.
    Absent,
}

impl HostRoot {
    /// The host at `root`.
    pub fn at(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    /// A path of the host, below the root.
    pub fn path(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    /// Reads a small text, trimmed. Returns `Ok(None)` if the file does not exist, and an error if
    /// it cannot be read.
    pub fn text(&self, path: &str) -> Result<Option<String>> {
        let mut text = Vec::new();
        let read =
            fs::File::open(self.path(path)).and_then(|file| file.take(MAX_BYTES).read_to_end(&mut text));
        match read {
            Ok(_) => Ok(Some(String::from_utf8_lossy(&text).trim().to_owned())),
            Err(error) if is_absent(&error) => Ok(None),
            Err(error) => Err(Error::new(format!("reading {path}")).source(error)),
        }
    }

    /// Reads a text; empty if the file does not exist or cannot be read. For optional information.
    pub fn hint(&self, path: &str) -> Option<String> {
        self.text(path).ok().flatten()
    }

    /// Whether the path exists.
    pub fn has(&self, path: &str) -> bool {
        fs::symlink_metadata(self.path(path)).is_ok()
    }

    /// Last component of the target of a link.
    pub fn link_name(&self, path: &str) -> Option<String> {
        let target = fs::read_link(self.path(path)).ok()?;
        Some(target.file_name()?.to_string_lossy().into_owned())
    }

    /// Names in a directory, sorted; empty if it does not exist.
    pub fn names(&self, path: &str) -> Vec<String> {
        let entries = fs::read_dir(self.path(path)).into_iter().flatten().flatten();
        let names = entries.take(MAX_ENTRIES).map(|entry| entry.file_name().to_string_lossy().into_owned());
        let mut names: Vec<_> = names.collect();
        names.sort();
        names
    }

    /// Whether this process may use a device node. Opening it could have side effects, so its mode
    /// is checked.
    pub fn node(&self, path: &str) -> Node {
        let place = self.path(path);
        if fs::metadata(&place).is_err() {
            return Node::Absent;
        }
        let wanted = AccessFlags::R_OK | AccessFlags::W_OK;
        let allowed = faccessat(nix::fcntl::AT_FDCWD, &place, wanted, AtFlags::AT_EACCESS);
        if allowed.is_ok() { Node::Usable } else { Node::Forbidden }
    }

    /// The kernel command line as words.
    pub fn cmdline(&self) -> Vec<String> {
        let text = self.hint("/proc/cmdline").unwrap_or_default();
        text.split_whitespace().map(str::to_owned).collect()
    }

    /// A field of /proc/cpuinfo, of the first processor that has it.
    pub fn cpu(&self, field: &str) -> Option<String> {
        let text = self.hint("/proc/cpuinfo")?;
        let mut fields = text.lines().filter_map(|line| line.split_once(':'));
        let (_, value) = fields.find(|(name, _)| name.trim() == field)?;
        Some(value.trim().to_owned())
    }

    /// Whether its processors are from AMD.
    pub fn is_amd(&self) -> bool {
        self.cpu("vendor_id").is_some_and(|vendor| vendor == "AuthenticAMD" || vendor == "HygonGenuine")
    }
}

/// A device may disappear while it is inspected.
fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
        || error.raw_os_error() == Some(nix::errno::Errno::ENODEV as i32)
}
