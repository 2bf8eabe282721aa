//! /run: a tmpfs with a copy of the image's /run. Services expect directories that their packages created there, such as
//! /run/sshd, /run/lock, or a database's socket directory.

use super::step::step;
use crate::confined_fs::{EntryType, RootDir, RootError};
use image::layout;
use image::text::chain;
use nix::mount::{MsFlags, mount};
use std::collections::VecDeque;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

/// Limits of the copy. An image usually has a few directories there, and perhaps a stale pid file.
const MAX_ENTRIES: usize = 1024;
const MAX_FILE: u64 = 64 << 10;
const MAX_BYTES: u64 = 1 << 20;

/// Files that mark other kinds of containers.
const NOT_COPIED: [&str; 2] = ["/.containerenv", "/host"];

/// Mounts the tmpfs where only PID 1's processes see it, and copies the image's /run. It is moved to /run later.
///
/// # Errors
/// What failed.
pub fn stage(root: &RootDir) -> Result<File, String> {
    let place = PathBuf::from(layout::RUN_DIR).join("run");
    let failed = |error: std::io::Error| format!("cannot create {}: {error}", place.display());
    fs::create_dir_all(&place).map_err(failed)?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    step("mounting a tmpfs for /run", mount(Some("tmpfs"), &place, Some("tmpfs"), flags, Some("mode=0755")))?;
    let copied = root.below(Path::new("/run")).and_then(|image| copy(&image, &RootDir::open(&place)?));
    match copied {
        Ok(0) => {}
        Ok(left) => log::warn!(
            "{left} entries of the image's /run are not copied: they are special files or exceed {MAX_ENTRIES} entries and {MAX_BYTES} bytes"
        ),
        Err(error) if error.is_not_found() => {}
        Err(error) => log::warn!("cannot copy the image's /run: {}", chain(&error)),
    }
    File::open(&place).map_err(failed)
}

/// Copies directories, links and small files, with modes and owners. Returns the number of entries that were not copied.
fn copy(from: &RootDir, to: &RootDir) -> Result<usize, RootError> {
    let (mut entries, mut bytes, mut left) = (0, 0, 0);
    let mut directories = VecDeque::from([PathBuf::from("/")]);
    while let Some(directory) = directories.pop_front() {
        for entry in from.list(&directory)? {
            let path = directory.join(&entry.name);
            if NOT_COPIED.iter().any(|name| path == Path::new(name)) {
                continue;
            }
            let size = from.lstat(&path)?.size;
            let fits = entries < MAX_ENTRIES
                && (entry.kind != EntryType::File || size <= MAX_FILE.min(MAX_BYTES - bytes));
            match entry.kind {
                EntryType::Directory if fits => {
                    to.mirror_dir_all(from, &path)?;
                    directories.push_back(path);
                }
                EntryType::File if fits => {
                    to.mirror_file(from, &path, MAX_FILE)?;
                    bytes += size;
                }
                EntryType::Link if fits => to.symlink(from.read_link(&path)?.as_os_str(), &path)?,
                _ => left += 1,
            }
            entries += 1;
        }
    }
    Ok(left)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    #[test]
    fn what_services_expect_is_there_and_no_more_than_that() {
        let dir = tempfile::tempdir().unwrap();
        let (image, new) = (dir.path().join("image"), dir.path().join("new"));
        fs::create_dir_all(image.join("postgresql/deep")).unwrap();
        fs::set_permissions(image.join("postgresql"), fs::Permissions::from_mode(0o2775)).unwrap();
        fs::write(image.join("postgresql/pid"), "7").unwrap();
        fs::set_permissions(image.join("postgresql/pid"), fs::Permissions::from_mode(0o640)).unwrap();
        symlink("/run/postgresql", image.join("link")).unwrap();
        fs::write(image.join("large"), vec![0; 65 << 10]).unwrap();
        nix::unistd::mkfifo(&image.join("pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        fs::create_dir(&new).unwrap();
        let left = copy(&RootDir::open(&image).unwrap(), &RootDir::open(&new).unwrap()).unwrap();
        assert_eq!(left, 2);
        let mode = |path: &str| fs::symlink_metadata(new.join(path)).unwrap().permissions().mode() & 0o7777;
        assert_eq!(
            (mode("postgresql"), mode("postgresql/deep"), mode("postgresql/pid")),
            (0o2775, 0o755, 0o640)
        );
        assert_eq!(fs::read_to_string(new.join("postgresql/pid")).unwrap(), "7");
        assert_eq!(fs::read_link(new.join("link")).unwrap(), Path::new("/run/postgresql"));
        assert_eq!(fs::read_dir(&new).unwrap().count(), 2);
    }

    #[test]
    fn a_run_with_too_much_in_it_is_cut() {
        let dir = tempfile::tempdir().unwrap();
        let (image, new) = (dir.path().join("image"), dir.path().join("new"));
        fs::create_dir_all(&image).unwrap();
        fs::create_dir_all(&new).unwrap();
        for n in 0..MAX_ENTRIES + 10 {
            fs::write(image.join(n.to_string()), "").unwrap();
        }
        let left = copy(&RootDir::open(&image).unwrap(), &RootDir::open(&new).unwrap()).unwrap();
        assert_eq!((left, fs::read_dir(&new).unwrap().count()), (10, MAX_ENTRIES));
    }
}
