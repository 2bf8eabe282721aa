//! The driver as copies in a plain writable root: for roots that are no overlay, and for a root prepared by
//! hand.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::plan::{MAX_FILE, in_driver};
use super::{InjectError, InjectReport, plan, text};
use crate::rootfs::{Kind, RootDir, RootError};

/// Other versions of a driver file get this before their name, so that neither loader nor `ldconfig` takes
/// them for a library. They can be renamed back.
const MASKED: &str = ".gpu-initrd-masked.";

/// Copies the driver's files into the container `root` and makes their links. Each file appears whole or not
/// at all, and what is in place already is left alone: a second run changes nothing.
///
/// # Errors
/// [`InjectError`]; files that were copied before stay.
pub fn copy(root: &RootDir, driver: &RootDir) -> Result<InjectReport, InjectError> {
    let plan = plan(root, driver)?;
    let mut report = plan.report;
    for (from, to, bits) in &plan.files {
        root.create_dir_all(to.parent().unwrap_or(Path::new("/")))?;
        let mut file = driver.open_file(from, MAX_FILE).map_err(in_driver)?;
        if is_in_place(root, to, &file, bits.mode()) {
            continue;
        }
        root.copy_atomic(to, &mut file, bits.mode())?;
        report.changed += 1;
    }
    for (path, target) in &plan.links {
        if root.read_link(path).is_ok_and(|old| old.as_os_str() == target) {
            continue;
        }
        root.symlink(target, path)?;
        report.changed += 1;
    }
    for path in plan.masks {
        let Some(name) = path.file_name() else { continue };
        let mut hidden = std::ffi::OsString::from(MASKED);
        hidden.push(name);
        root.rename(&path, &hidden)?;
        report.changed += 1;
        report.masked.push(text(&path));
    }
    Ok(report)
}

/// Whether `path` is already a file of this mode and with the content of `file`.
fn is_in_place(root: &RootDir, path: &Path, file: &File, mode: u32) -> bool {
    let Ok(present) = root.lstat(path) else { return false };
    if present.kind != Kind::File || present.mode != mode {
        return false;
    }
    let same_size = file.metadata().is_ok_and(|m| m.len() == present.size);
    same_size && same_content(root, path, file).unwrap_or(false)
}

fn same_content(root: &RootDir, path: &Path, file: &File) -> Result<bool, RootError> {
    let present = root.open_file(path, MAX_FILE)?;
    // Reads at given places, so that the caller's position stays at the start.
    let compare = || -> io::Result<bool> {
        let (mut a, mut b) = (vec![0; 64 * 1024], vec![0; 64 * 1024]);
        let mut at = 0;
        loop {
            let len = fill(&present, &mut a, at)?;
            if len != fill(file, &mut b, at)? || a[..len] != b[..len] {
                return Ok(false);
            }
            if len == 0 {
                return Ok(true);
            }
            at += len as u64;
        }
    };
    compare().map_err(|source| RootError::Io { action: "compare", path: path.to_owned(), source })
}

/// Reads until `buf` is full or the file ends.
fn fill(file: &File, buf: &mut [u8], at: u64) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buf.len() {
        match file.read_at(&mut buf[filled..], at + filled as u64) {
            Ok(0) => break,
            Ok(len) => filled += len,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(filled)
}
