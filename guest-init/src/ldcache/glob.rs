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
            (!name.starts_with(b".") || pattern.starts_with(b".")) && matches_name(pattern, name)
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

/// Returns whether `name` matches `pattern` with `*`, `?`, `[a-z]`, `[!a-z]` and `\x`. Takes at most the product of
/// their lengths in steps.
pub(super) fn matches_name(pattern: &[u8], name: &[u8]) -> bool {
    let (mut p, mut n) = (0, 0);
    // Where to continue after the last star if a later part does not match.
    let mut star: Option<(usize, usize)> = None;
    while n < name.len() || p < pattern.len() {
        let step = match pattern.get(p) {
            Some(b'*') => {
                star = Some((p + 1, n + 1));
                Some((p + 1, n))
            }
            Some(_) if n < name.len() => one(&pattern[p..], name[n]).map(|len| (p + len, n + 1)),
            _ => None,
        };
        match (step, star) {
            (Some((next_p, next_n)), _) => (p, n) = (next_p, next_n),
            (None, Some((after, from))) if from <= name.len() => {
                (p, n) = (after, from);
                star = Some((after, from + 1));
            }
            _ => return false,
        }
    }
    true
}

/// Matches one character, and returns the length of that part of the pattern.
fn one(pattern: &[u8], byte: u8) -> Option<usize> {
    match pattern {
        [b'?', ..] => Some(1),
        [b'\\', escaped, ..] => (*escaped == byte).then_some(2),
        [b'[', rest @ ..] => match bracket(rest, byte) {
            Some((len, hit)) => hit.then_some(len + 1),
            // An unclosed bracket is an ordinary character.
            None => (byte == b'[').then_some(1),
        },
        [literal, ..] => (*literal == byte).then_some(1),
        [] => None,
    }
}

/// Parses the set after `[`: returns its length with the closing bracket, and whether `byte` is in it.
fn bracket(set: &[u8], byte: u8) -> Option<(usize, bool)> {
    let negated = matches!(set.first(), Some(b'!' | b'^'));
    let start = usize::from(negated);
    let mut at = start;
    let mut hit = false;
    loop {
        let low = *set.get(at)?;
        if low == b']' && at > start {
            return Some((at + 1, hit != negated));
        }
        match (set.get(at + 1), set.get(at + 2)) {
            (Some(b'-'), Some(high)) if *high != b']' => {
                hit |= (low..=*high).contains(&byte);
                at += 3;
            }
            _ => {
                hit |= low == byte;
                at += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_match_as_in_glibc() {
        for (pattern, name, expected) in [
            ("*.conf", "a.conf", true),
            ("*.conf", "a.conf.bak", false),
            ("*", "", true),
            ("a*b*c", "axxbyyc", true),
            ("a*b*c", "axxbyy", false),
            ("?[a-c]?", "xbz", true),
            ("[!a-c]", "b", false),
            ("[]x]", "]", true),
            ("[a", "[a", true),
            ("\\*", "*", true),
            ("\\*", "x", false),
            ("x", "", false),
        ] {
            assert_eq!(matches_name(pattern.as_bytes(), name.as_bytes()), expected, "{pattern} {name}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_pattern_ends(pattern: Vec<u8>, name: Vec<u8>) {
            matches_name(&pattern, &name);
        }
    }
}
