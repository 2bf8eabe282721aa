//! The driver as copies in a plain writable root: for roots that are no overlay, and for a root prepared by
//! hand.
//!
//! In two steps, so that a cut at any point leaves the old files or the new ones: every new file is written under a
//! temporary name first, then all are renamed. A record (`copy_record`) in the root says what is ours and whether a
//! boot was cut off; the next one repairs it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use super::copy_record::{Entry, Record};
use super::loader_setup::mask;
use super::plan::{MAX_FILE, in_driver};
use super::{InjectError, InjectReport, Inventory, Plan, PlannedFile, Request, plan, text};
use crate::confined_fs::{Kind, RootDir, RootError, read_full_at};

/// File systems give space in blocks of this many bytes.
const BLOCK: u64 = 4096;
/// For links, directories, the record and the loader cache.
const SLACK: u64 = 1 << 20;

/// Copies the driver's files into the container `root` and makes their links. What is in place already is left alone: a
/// second run changes nothing. What an earlier driver left is removed.
///
/// # Errors
/// [`InjectError`]. Up to the renaming, nothing has changed then.
pub fn copy(
    root: &RootDir,
    driver: &RootDir,
    inventory: &Inventory,
    request: &Request,
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
        // What a cut left half-written takes room.
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
        // What was written is of no use; the failure itself is what counts.
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
        // A directory in its place, say: the check of what is opened tells whether it matters.
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

/// The planned files that are not in place.
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

/// Whether there is nothing to do.
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
        stat.kind == Kind::File && stat.mode == file.mode && stat.size == file.size
    };
    root.lstat(&file.to).is_ok_and(is_it)
}

/// Whether the file is in its place already, whoever put it there.
fn is_in_place(root: &RootDir, driver: &RootDir, file: &PlannedFile) -> Result<bool, InjectError> {
    if !is_like(root, file) {
        return Ok(false);
    }
    let ours = driver.open_file(&file.from, MAX_FILE).map_err(in_driver)?;
    Ok(root.open_file(&file.to, MAX_FILE).is_ok_and(|theirs| same_content(&ours, &theirs).unwrap_or(false)))
}

/// Bytes that the missing files take, and what goes with them.
fn needed(missing: &[PlannedFile]) -> u64 {
    SLACK + missing.iter().map(|file| file.size.next_multiple_of(BLOCK)).sum::<u64>()
}

/// Nothing is begun that cannot be finished.
fn check_room(root: &RootDir, plan: &Plan, missing: &[PlannedFile]) -> Result<(), InjectError> {
    if missing.is_empty() {
        return Ok(());
    }
    let (dir, needed) = (PathBuf::from(&plan.report.lib_dir), needed(missing));
    let found = root.free_bytes(&dir).or_else(|_| root.free_bytes(Path::new("/")))?;
    if found < needed { Err(InjectError::NoSpace { dir, needed, found }) } else { Ok(()) }
}

/// Nor what a directory is in the way of: a bind mount of a file that was not there leaves an empty one, which goes.
fn check_places(root: &RootDir, missing: &[PlannedFile]) -> Result<(), InjectError> {
    for file in missing.iter().filter(|file| is_directory(root, &file.to)) {
        if !root.list(&file.to)?.is_empty() {
            return Err(InjectError::DirectoryInTheWay { path: file.to.clone() });
        }
    }
    Ok(())
}

fn is_directory(root: &RootDir, path: &Path) -> bool {
    root.lstat(path).is_ok_and(|stat| stat.kind == Kind::Directory)
}

/// Takes an empty directory out of a file's place.
fn clear(root: &RootDir, path: &Path) -> Result<(), RootError> {
    if is_directory(root, path) { root.remove_empty_dir(path) } else { Ok(()) }
}

/// The error for a disk that was full after all: a quota, another file system. What was written is gone again.
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
    // Delayed allocation: that there is no room may only be told here.
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
