//! Does the work of `ldconfig` without running it: PID 1 never executes anything from the container root, and a slim image
//! may have no `ldconfig` at all.
//!
//! The loader finds libraries through /etc/ld.so.cache. The image's cache does not contain the driver's libraries, so it is
//! rebuilt: read ld.so.conf, scan the directories, create the SONAME links, sort,
//! write. Except for the name of the generator, the result is byte for byte the same as that of the image's own
//! `ldconfig`, from glibc 2.31 on.

mod conf;
mod contents;
mod dirs;
mod glob;
mod hwcap;
mod library;
mod links;
mod machine;
mod platform;
mod resolve;
mod rules;
mod scan;

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use image::ldcache::{Extensions, Layout, MAX_BYTES as MAX_CACHE, MAX_LIBRARIES, encode};
use serde::Serialize;

use self::rules::Rules;
use self::scan::{Found, Scanner};
use crate::confined_fs::{RootDir, RootError};

pub use self::conf::{Directive, parse_conf};
pub use self::conf_entry::{keep_directories, keep_directory, search_directories};
pub use self::machine::Machine;
pub use self::platform::Platform;
pub use self::resolve::{Resolved, SearchSettings, Variant, Via, resolve};
pub use image::ldcache::{CacheContent, Entry, FormatError, Library, compare_names, read};

/// Path of the cache for nearly every loader.
pub const CACHE: &str = "/etc/ld.so.cache";
/// Generator string written into the cache.
pub const GENERATOR: &str = concat!("gpu-initrd ", env!("CARGO_PKG_VERSION"));

/// Maximum number of warnings: a hostile root could cause one per file.
const MAX_WARNINGS: usize = 100;

/// Why no cache could be built.
#[derive(Debug, thiserror::Error)]
pub enum LdCacheError {
    /// A required operation in the root failed.
    #[error(transparent)]
    Root(#[from] RootError),
    /// The root exceeds the limits of the format.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// A path that ld.so.conf cannot contain.
    #[error(
        "ld.so.conf cannot contain {}: expected an absolute path without #, = and control characters",
        path.display()
    )]
    NoDirectory {
        /// Which path.
        path: PathBuf,
    },
}

/// A link that was created or changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LinkChange {
    /// Path of the link in the root.
    pub path: String,
    /// Its target.
    pub target: String,
}

/// Summary for the status report.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct CacheReport {
    /// Size of the cache in bytes.
    pub bytes: usize,
    /// Entries in the cache.
    pub entries: usize,
    /// Directories scanned.
    pub directories: usize,
    /// SONAME links created or changed.
    pub links: Vec<LinkChange>,
    /// What was skipped and why, at most 100 entries.
    pub warnings: Vec<String>,
}

impl CacheReport {
    fn warn(&mut self, text: String) {
        if self.warnings.len() < MAX_WARNINGS {
            self.warnings.push(text);
        }
    }
}

/// A cache ready to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cache {
    /// Its path.
    pub path: PathBuf,
    /// Content of the file.
    pub bytes: Vec<u8>,
    /// Summary of the work.
    pub report: CacheReport,
}

/// Creates the SONAME links in `root` and builds its cache.
///
/// # Errors
/// [`LdCacheError`] only if no useful cache can be built. An unreadable library or directory is skipped with a warning, as
/// `ldconfig` does.
pub fn build(root: &RootDir) -> Result<Cache, LdCacheError> {
    build_for(root, &Platform::detect(root).unwrap_or_default())
}

/// [`build`], for a root whose platform is known.
///
/// # Errors
/// As [`build`].
pub fn build_for(root: &RootDir, platform: &Platform) -> Result<Cache, LdCacheError> {
    let mut report = CacheReport::default();
    let rules = Rules::of(root, platform);
    let mut directories = dirs::collect(root, platform, &rules, &mut report);
    let mut libraries = Vec::new();
    let mut index = 0;
    // The list grows: subdirectories for special hardware are scanned last.
    while let Some(directory) = directories.list.get(index).cloned() {
        let legacy = &directories.legacy;
        let scanner = Scanner { root, machine: platform.machine, rules: &rules, legacy };
        let scanned = scanner.scan(&directory, &mut report);
        let hwcap = match directory.hwcaps {
            None if rules.legacy_hwcaps => legacy.of_path(&directory.path),
            _ => 0,
        };
        // ldconfig keeps the libraries of a directory in a list that grows at its head. This is seen where
        // two names compare as equal.
        for lib in scanned.libraries.into_iter().rev() {
            if directory.hwcaps.is_none() {
                links::make(root, &directory.path, &lib, &scanned.links, &mut report);
            }
            libraries.push(library(&directory.path, lib, directory.hwcaps.clone(), hwcap));
        }
        if libraries.len() > MAX_LIBRARIES {
            break;
        }
        directories.add_legacy(root, index, scanned.legacy);
        index += 1;
    }
    report.directories = directories.list.len();
    report.entries = libraries.len();
    let names: Vec<&[u8]> = directories.hwcaps.iter().map(Vec::as_slice).collect();
    let bytes = encode(libraries, &layout(&rules, &names))?;
    report.bytes = bytes.len();
    Ok(Cache { path: platform.cache.clone(), bytes, report })
}

fn library(directory: &OsStr, lib: Found, hwcaps: Option<Vec<u8>>, hwcap: u64) -> Library {
    // The SONAME is the path where a link stands for it, and there are none in glibc-hwcaps directories.
    let file = if hwcaps.is_some() { &lib.name } else { &lib.soname };
    Library {
        value: join(directory, file).into_os_string().into_vec(),
        key: lib.soname.into_vec(),
        flags: lib.facts.flags,
        isa_level: lib.facts.isa_level,
        osversion: lib.facts.osversion,
        hwcaps,
        hwcap,
    }
}

fn layout<'a>(rules: &Rules, names: &'a [&'a [u8]]) -> Layout<'a> {
    let extensions = Extensions { generator: GENERATOR, names };
    Layout {
        old_table: rules.old_table,
        byte_order: rules.byte_order,
        extensions: rules.extensions.then_some(extensions),
    }
}

impl Cache {
    /// Writes the cache atomically, with mode 0644. Returns whether anything changed.
    ///
    /// # Errors
    /// [`LdCacheError::Root`] if its directory in the root cannot be written.
    pub fn write(&self, root: &RootDir) -> Result<bool, LdCacheError> {
        let path = &self.path;
        if root.read(path, MAX_CACHE).is_ok_and(|old| old == self.bytes)
            && root.lstat(path).is_ok_and(|s| s.mode == 0o644)
        {
            return Ok(false);
        }
        root.create_dir_all(path.parent().unwrap_or(Path::new("/")))?;
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

mod binary_strings;
mod conf_entry;
#[cfg(test)]
mod tests;
