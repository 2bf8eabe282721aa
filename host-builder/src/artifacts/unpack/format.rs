//! Detects the type of a file from its first bytes, because names are not reliable and files in the
//! cache have none.

use super::stream::{is_compressed, is_tar};
use crate::common::error::{Doing, Result};
use crate::initramfs::file_type::{AR, RPM, ZIP, begins};
use std::fs::File;
use std::io::{BufRead, Read};
use std::path::Path;

/// Bytes that are read for detection. The `skip=` of an installer is in its first kilobytes.
const FRONT: u64 = 64 << 10;

/// The format of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Debian package.
    Deb,
    /// RPM package.
    Rpm,
    /// Zip archive.
    Zip,
    /// Self-extracting installer.
    Runfile,
    /// Tar archive.
    Tar,
    /// A compressed stream, which must contain a tar archive.
    Compressed,
    /// Anything else.
    Plain,
}

/// Detects the format of a file.
pub fn of(path: &Path) -> Result<Format> {
    let mut front = Vec::new();
    File::open(path).doing("opening", path)?.take(FRONT).read_to_end(&mut front).doing("reading", path)?;
    Ok(match &front {
        front if begins(front, AR) => Format::Deb,
        front if begins(front, RPM) => Format::Rpm,
        front if begins(front, ZIP) => Format::Zip,
        front if is_compressed(front) => Format::Compressed,
        front if is_tar(front) => Format::Tar,
        front if is_runfile(front) => Format::Runfile,
        _ => Format::Plain,
    })
}

/// Whether a file is an installer by its first bytes: a shell script with a line `skip=`.
pub fn is_runfile(front: &[u8]) -> bool {
    front.starts_with(b"#!") && skip(front).is_some()
}

/// The number in the first line `skip=N` or `skip="N"`.
pub fn skip(mut script: &[u8]) -> Option<usize> {
    let mut line = Vec::new();
    loop {
        line.clear();
        if script.read_until(b'\n', &mut line).ok()? == 0 {
            return None;
        }
        let Some(value) = line.strip_prefix(b"skip=") else { continue };
        let text = std::str::from_utf8(value).ok()?;
        if let Ok(lines) = text.trim().trim_matches('"').parse() {
            return Some(lines);
        }
    }
}
