//! Copies the driver into a plain writable root, without an overlay.
//!
//! The copy has two steps, so that an interruption leaves either the old or the new files: every new file is first written
//! under a temporary name, then all are renamed. A record (`copy_record`) in the root lists the copied files and whether
//! a boot was interrupted; the next boot then repairs the root.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use super::copy_record::{Entry, Record};
use super::error::{InjectError, in_driver};
use super::inventory::{Inventory, MAX_FILE};
use super::loader_setup::mask;
use super::plan::{Plan, PlannedFile, plan};
use super::report::{InjectReport, text};
use super::request::ContainerRequest;
use crate::confined_fs::{EntryType, RootDir, RootError, read_full_at};

/// Block size of file systems in bytes.
const BLOCK: u64 = 4096;
/// Space in bytes for links, directories, the record and the loader cache.
const SLACK: u64 = 1 << 20;

/// Copies the driver files into the container `root` and creates their links. Files that are in place are not changed, so
/// a second run changes nothing. The files of an earlier driver are removed.
///
/// # Errors
/// [`InjectError`]. Before the renames, nothing has changed.
pub fn copy(
    root: &RootDir,
    driver: &RootDir,
    inventory: &Inventory,
    request: &ContainerRequest,
) -> Result<InjectReport, InjectError> {
    let mut warnings = Vec::new();
    let old = Record::read(root, &mut warnings);
    let mut plan = plan(root, driver, inventory, request, &old.ours(root))?;
    plan.report.warnings.splice(0..0, warnings);
    let missing = missing(root, driver, &plan, &old)?;
    let mut new = target(&plan, &old, root, &missing);
    if is_done(root, &plan, &old, &missing, &new) {
        return Ok(plan.report);
    }
    if !old.complete && !old.entries.is_empty() {
        // Partly written files of an interrupted boot use space.
        let left = old.entries.keys().map(PathBuf::from).chain(missing.iter().map(|file| file.to.clone()));
        for path in left {
            let _ = root.discard(&path);
        }
    }
    check_room(root, &plan, &missing)?;
    check_places(root, &missing)?;
    let mut report = std::mem::take(&mut plan.report);
    // From here to the last line, the record lists both.
    let mut both = Record { complete: false, ..old.clone() };
    both.entries.extend(new.entries.clone());
    both.write(root).map_err(|error| no_room(root, error, &plan, &missing))?;
    if let Err(error) = stage(root, driver, &missing) {
        // The written files are useless now; only the first failure is reported.
        for file in &missing {
            let _ = root.discard(&file.to);
        }
        let _ = old.clone().write(root);
        return Err(no_room(root, error, &plan, &missing));
    }
    for file in &missing {
        clear(root, &file.to)?;
        root.commit(&file.to)?;
        new.entries.insert(text(&file.to), Entry::of(&root.lstat(&file.to)?));
        report.changed += 1;
    }
    for (path, target) in plan.links.iter().filter(|(path, target)| !is_link(root, path, target)) {
        // For example a directory in its place; the check of opened libraries shows whether it matters.
        match make_parent(root, path)
            .and_then(|()| Ok(clear(root, path).and_then(|()| root.symlink(target, path))?))
        {
            Ok(()) => report.changed += 1,
            Err(error) => report.warnings.push(image::text::chain(&error)),
        }
    }
    for path in &plan.masks {
        mask(root, path, &mut report);
    }
    report.removed = old.remove_stale(root, &new.entries, &mut report.warnings)?;
    report.changed += report.removed.len();
    new.complete = true;
    root.sync()?;
    new.write(root)?;
    Ok(report)
}

/// Returns the planned files that are not in place.
fn missing(
    root: &RootDir,
    driver: &RootDir,
    plan: &Plan,
    old: &Record,
) -> Result<Vec<PlannedFile>, InjectError> {
    let mut missing = Vec::new();
    for file in &plan.files {
        if !(old.has(root, &file.to) && is_like(root, file) || is_in_place(root, driver, file)?) {
            missing.push(file.clone());
        }
    }
    Ok(missing)
}

/// The record of the finished work. Files that are in place are recorded as they are; those that the image brought, the
/// very driver, are not ours.
fn target(plan: &Plan, old: &Record, root: &RootDir, missing: &[PlannedFile]) -> Record {
    let mut entries: BTreeMap<String, Entry> = BTreeMap::new();
    for file in &plan.files {
        let path = text(&file.to);
        if missing.contains(file) {
            entries.insert(path, Entry::pending(file.size));
        } else if let (true, Ok(stat)) = (old.entries.contains_key(&path), root.lstat(&file.to)) {
            entries.insert(path, Entry::of(&stat));
        }
    }
    for (path, target) in &plan.links {
        entries.insert(text(path), Entry::Link { target: target.to_string_lossy().into_owned() });
    }
    Record { version: plan.report.version.clone(), entries, ..Record::default() }
}

/// Returns whether there is nothing to do.
fn is_done(root: &RootDir, plan: &Plan, old: &Record, missing: &[PlannedFile], new: &Record) -> bool {
    missing.is_empty()
        && plan.masks.is_empty()
        && old.complete
        && old.entries == new.entries
        && plan.links.iter().all(|(path, target)| is_link(root, path, target))
}

fn is_link(root: &RootDir, path: &Path, target: &std::ffi::OsStr) -> bool {
    root.read_link(path).is_ok_and(|old| old.as_os_str() == target)
}

/// Whether the file at its place has the size and the mode that it should have.
fn is_like(root: &RootDir, file: &PlannedFile) -> bool {
    let is_it = |stat: crate::confined_fs::Stat| {
        stat.kind == EntryType::File && stat.mode == file.mode && stat.size == file.size
    };
    root.lstat(&file.to).is_ok_and(is_it)
}

/// Returns whether the file is in its place already, also if another program put it there.
fn is_in_place(root: &RootDir, driver: &RootDir, file: &PlannedFile) -> Result<bool, InjectError> {
    if !is_like(root, file) {
        return Ok(false);
    }
    let ours = driver.open_file(&file.from, MAX_FILE).map_err(in_driver)?;
    Ok(root.open_file(&file.to, MAX_FILE).is_ok_and(|theirs| same_content(&ours, &theirs).unwrap_or(false)))
}

/// Returns the space in bytes for the missing files and for links, record and cache.
fn needed(missing: &[PlannedFile]) -> u64 {
    SLACK + missing.iter().map(|file| file.size.next_multiple_of(BLOCK)).sum::<u64>()
}

/// Checks that there is enough space before anything is written.
fn check_room(root: &RootDir, plan: &Plan, missing: &[PlannedFile]) -> Result<(), InjectError> {
    if missing.is_empty() {
        return Ok(());
    }
    let (dir, needed) = (PathBuf::from(&plan.report.lib_dir), needed(missing));
    let found = root.free_bytes(&dir).or_else(|_| root.free_bytes(Path::new("/")))?;
    if found < needed { Err(InjectError::NoSpace { dir, needed, found }) } else { Ok(()) }
}

/// Checks for directories in place of files. An empty one, which a bind mount of a missing file leaves behind, is removed.
fn check_places(root: &RootDir, missing: &[PlannedFile]) -> Result<(), InjectError> {
    for file in missing.iter().filter(|file| is_directory(root, &file.to)) {
        if !root.list(&file.to)?.is_empty() {
            return Err(InjectError::DirectoryInTheWay { path: file.to.clone() });
        }
    }
    Ok(())
}

fn is_directory(root: &RootDir, path: &Path) -> bool {
    root.lstat(path).is_ok_and(|stat| stat.kind == EntryType::Directory)
}

/// Removes an empty directory in place of a file.
fn clear(root: &RootDir, path: &Path) -> Result<(), RootError> {
    if is_directory(root, path) { root.remove_empty_dir(path) } else { Ok(()) }
}

/// Returns the error for a disk that was full in spite of the check (quota, another file system). Written files are removed.
fn no_room(root: &RootDir, error: InjectError, plan: &Plan, missing: &[PlannedFile]) -> InjectError {
    let is_full = |error: &RootError| matches!(error.raw_os_error(), Some(libc::ENOSPC | libc::EDQUOT));
    match error {
        InjectError::Root(error) if is_full(&error) => {
            let dir = PathBuf::from(&plan.report.lib_dir);
            let found = root.free_bytes(&dir).unwrap_or_default();
            InjectError::NoSpace { dir, needed: needed(missing), found }
        }
        error => error,
    }
}

/// Writes every missing file under its temporary name.
fn stage(root: &RootDir, driver: &RootDir, missing: &[PlannedFile]) -> Result<(), InjectError> {
    for file in missing {
        make_parent(root, &file.to)?;
        let source = driver.open_file(&file.from, MAX_FILE).map_err(in_driver)?;
        root.stage(&file.to, &source, file.mode)?;
    }
    // With delayed allocation, a full disk may be reported only here.
    Ok(root.sync()?)
}

fn make_parent(root: &RootDir, path: &Path) -> Result<(), InjectError> {
    Ok(root.create_dir_all(path.parent().unwrap_or(Path::new("/")))?)
}

fn same_content(a: &File, b: &File) -> io::Result<bool> {
    let (mut left, mut right) = (vec![0; 64 * 1024], vec![0; 64 * 1024]);
    let mut at = 0;
    loop {
        let len = read_full_at(a, &mut left, at)?;
        if len != read_full_at(b, &mut right, at)? || left[..len] != right[..len] {
            return Ok(false);
        }
        if len == 0 {
            return Ok(true);
        }
        at += len as u64;
    }
}
