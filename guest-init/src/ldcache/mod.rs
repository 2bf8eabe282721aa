//! What `ldconfig` does, without running it: nothing from the container root is ever executed by PID 1, and a
//! slim image may have no `ldconfig` at all.
//!
//! The loader finds libraries through /etc/ld.so.cache. The driver's libraries are not in the one that came
//! with the image, so it is written anew: read ld.so.conf, scan the directories, make the SONAME links, sort,
//! write. The result is the same, byte for byte but for the name of its maker, as that of the image's own
//! `ldconfig` (glibc 2.36 and later; older ones accept it).

mod conf;
mod dirs;
mod glob;
mod platform;
mod resolve;
mod scan;

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use image::ldcache::{Extensions, Layout, MAX_BYTES as MAX_CACHE, encode};
use serde::Serialize;

use crate::rootfs::{RootDir, RootError};

pub use self::conf::{Directive, parse_conf};
pub use self::platform::{Machine, Platform};
pub use self::resolve::{Resolved, Via, resolve};
pub use image::ldcache::{CacheContent, Entry, FormatError, Library, compare_names, read};

/// Where the loader looks for its cache.
pub const CACHE: &str = "/etc/ld.so.cache";
/// Written into the cache as its maker.
pub const GENERATOR: &str = concat!("gpu-initrd ", env!("CARGO_PKG_VERSION"));

/// Warnings kept: a hostile root could cause one per file.
const MAX_WARNINGS: usize = 100;

/// Why no cache could be made.
#[derive(Debug, thiserror::Error)]
pub enum LdCacheError {
    /// Something that must work in the root did not.
    #[error(transparent)]
    Root(#[from] RootError),
    /// The root is beyond every bound.
    #[error(transparent)]
    Format(#[from] FormatError),
}

/// A link that was made or changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LinkChange {
    /// Path of the link in the root.
    pub path: String,
    /// What it points to.
    pub target: String,
}

/// What was done, for the status report.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct CacheReport {
    /// Entries in the cache.
    pub entries: usize,
    /// Directories scanned.
    pub directories: usize,
    /// SONAME links made or changed.
    pub links: Vec<LinkChange>,
    /// What was passed over and why, 100 at most.
    pub warnings: Vec<String>,
}

impl CacheReport {
    fn warn(&mut self, text: String) {
        if self.warnings.len() < MAX_WARNINGS {
            self.warnings.push(text);
        }
    }
}

/// A cache that is ready to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cache {
    /// Content of the file.
    pub bytes: Vec<u8>,
    /// What was done to get there.
    pub report: CacheReport,
}

/// Makes the SONAME links in `root` and the content of its cache.
///
/// # Errors
/// [`LdCacheError`] only where no useful cache can be made. A library or directory that cannot be read is
/// passed over, with a warning, as `ldconfig` does.
pub fn build(root: &RootDir) -> Result<Cache, LdCacheError> {
    let mut report = CacheReport::default();
    let platform = Platform::detect(root).unwrap_or_default();
    let directories = dirs::collect(root, &platform, &mut report);
    report.directories = directories.list.len();
    let mut libraries = Vec::new();
    for directory in &directories.list {
        let found = scan::scan(root, directory, platform.machine, &mut report);
        // ldconfig keeps the libraries of a directory in a list that grows at its head. This is seen where
        // two names compare as equal.
        for lib in found.into_iter().rev() {
            let file = if directory.hwcaps.is_some() {
                lib.name
            } else {
                scan::make_link(root, directory, &lib, &mut report);
                lib.soname.clone()
            };
            libraries.push(Library {
                value: join(&directory.path, &file).into_os_string().into_vec(),
                key: lib.soname.into_vec(),
                flags: lib.flags,
                isa_level: lib.isa_level,
                hwcaps: directory.hwcaps.clone(),
                ..Library::default()
            });
        }
    }
    report.entries = libraries.len();
    let names: Vec<&[u8]> = directories.hwcaps.iter().map(Vec::as_slice).collect();
    let extensions = Some(Extensions { generator: GENERATOR, names: &names });
    let bytes = encode(libraries, &Layout { old_table: false, byte_order: true, extensions })?;
    Ok(Cache { bytes, report })
}

impl Cache {
    /// Puts the cache in its place, whole or not at all, mode 0644. Returns whether anything changed.
    ///
    /// # Errors
    /// [`LdCacheError::Root`] when /etc of the root cannot be written.
    pub fn write(&self, root: &RootDir) -> Result<bool, LdCacheError> {
        let path = Path::new(CACHE);
        if root.read(path, MAX_CACHE).is_ok_and(|old| old == self.bytes)
            && root.lstat(path).is_ok_and(|s| s.mode == 0o644)
        {
            return Ok(false);
        }
        root.create_dir_all(Path::new("/etc"))?;
        root.write_atomic(path, &self.bytes, 0o644)?;
        Ok(true)
    }
}

/// `directory/name`, the directory exactly as it was written: the path becomes part of the cache.
fn join(directory: &OsStr, name: &OsStr) -> PathBuf {
    let mut path = directory.as_bytes().to_vec();
    path.push(b'/');
    path.extend(name.as_bytes());
    PathBuf::from(OsString::from_vec(path))
}

#[cfg(test)]
mod tests;
