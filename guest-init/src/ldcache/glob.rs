//! `glob` inside the container root, for the `include` lines of ld.so.conf.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::confined_fs::{EntryType, RootDir};

/// Maximum number of paths per pattern.
const MAX_PATHS: usize = 1000;
/// Cost of reading one directory.
const DIRECTORY: usize = 4096;

/// Returns the paths that match `pattern`, in C order. A pattern without wildcards matches itself, whether it exists or not.
/// A directory that cannot be listed has no matches.
///
/// `budget` is the remaining budget: each name costs the length of its pattern in bytes, and each directory a fixed amount.
/// With no budget left, nothing matches.
pub(super) fn glob(root: &RootDir, pattern: &[u8], budget: &mut usize) -> Vec<PathBuf> {
    let start = if pattern.starts_with(b"/") { "/" } else { "" };
    let mut paths = vec![PathBuf::from(start)];
    let mut parts = pattern.split(|b| *b == b'/').filter(|p| !p.is_empty()).peekable();
    while let Some(part) = parts.next() {
        let last = parts.peek().is_none();
        if has_wildcard(part) {
            let listed = paths.iter().flat_map(|dir| matches(root, dir, part, last, budget));
            paths = listed.take(MAX_PATHS).collect();
        } else {
            let name = unescape(part);
            for path in &mut paths {
                path.push(OsStr::from_bytes(&name));
            }
        }
    }
    paths.sort_by(|a, b| a.as_os_str().as_bytes().cmp(b.as_os_str().as_bytes()));
    paths
}

fn matches(root: &RootDir, dir: &Path, pattern: &[u8], last: bool, budget: &mut usize) -> Vec<PathBuf> {
    *budget = budget.saturating_sub(DIRECTORY);
    let entries = if *budget == 0 { Vec::new() } else { root.list(dir).unwrap_or_default() };
    *budget = budget.saturating_sub(entries.len() * pattern.len());
    let entries = if *budget == 0 { Vec::new() } else { entries };
    entries
        .into_iter()
        .filter(|e| last || matches!(e.kind, EntryType::Directory | EntryType::Link))
        .filter(|e| {
            let name = e.name.as_bytes();
            // A leading dot must be explicit in the pattern.
            (!name.starts_with(b".") || pattern.starts_with(b".")) && image::pattern::matches(pattern, name)
        })
        .map(|e| dir.join(e.name))
        .collect()
}

fn has_wildcard(pattern: &[u8]) -> bool {
    pattern.iter().any(|b| matches!(b, b'*' | b'?' | b'['))
}

fn unescape(pattern: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut bytes = pattern.iter();
    while let Some(byte) = bytes.next() {
        out.push(if *byte == b'\\' { *bytes.next().unwrap_or(byte) } else { *byte });
    }
    out
}
