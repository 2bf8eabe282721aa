//! Writes the files of a build: all of them or none. The initrd is renamed last.

use super::pack::{Packed, Segments};
use super::payload;
use crate::artifacts::cache::Cache;
use crate::artifacts::tree::Tree;
use crate::common::error::{Doing, Error, Result};
use crate::common::files::{Staged, base_name};
use crate::pins::lock::Lock;
use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;

/// Bytes that are compared at a time.
const CHUNK: usize = 256 << 10;

/// Paths of a build's files.
#[derive(Debug, Clone, Copy)]
pub struct Outputs<'a> {
    /// The initrd.
    pub initrd: &'a Path,
    /// The kernel image.
    pub kernel: &'a Path,
    /// The driver's disk, if there is one.
    pub payload: &'a Path,
    /// The lock. It is left unchanged if its content is the same.
    pub lock: &'a Path,
}

impl Outputs<'_> {
    /// Writes all files under temporary names, then renames them together: an initrd does not work
    /// with another kernel or disk.
    ///
    /// # Errors
    /// Something cannot be read or written. All old files are still there then.
    pub fn write(
        &self,
        segments: &Segments,
        disk: Option<&payload::Image>,
        kernel: &[Tree],
        lock: &Lock,
        cache: &Cache,
    ) -> Result<Packed> {
        let (initrd, others) = std::thread::scope(|scope| {
            let others = scope.spawn(|| self.others(disk, kernel, lock));
            let initrd = segments.write(self.initrd, cache);
            (initrd, others.join().expect("writing does not panic"))
        });
        let ((initrd, packed), others) = (initrd?, others?);
        let is_new = initrd.is_some();
        appear(initrd, others)?;
        if is_new {
            packed.remember(self.initrd, cache)?;
        }
        Ok(packed)
    }

    /// Stages the outputs other than the initrd that have changed.
    fn others(&self, disk: Option<&payload::Image>, kernel: &[Tree], lock: &Lock) -> Result<Vec<Staged>> {
        let mut staged = Vec::new();
        if let Some(disk) = disk {
            staged.push(disk.stage(self.payload)?);
        }
        let image = kernel_image(kernel, &lock.kernel_release)?;
        if !has_content(self.kernel, &image) {
            let write = |file: &mut File| file.write_all(&image).doing("writing", self.kernel);
            staged.push(Staged::new(self.kernel, 0o644, write)?);
        }
        if Lock::read(self.lock).ok().flatten().as_ref() != Some(lock) {
            staged.push(lock.stage(self.lock)?);
        }
        Ok(staged)
    }
}

/// Returns whether a file has this content.
fn has_content(path: &Path, content: &[u8]) -> bool {
    let compared = || -> std::io::Result<bool> {
        let mut file = File::open(path)?;
        let (mut rest, mut buffer) = (content, vec![0; CHUNK]);
        loop {
            let got = file.read(&mut buffer)?;
            match rest.strip_prefix(&buffer[..got]) {
                _ if got == 0 => return Ok(rest.is_empty()),
                Some(left) => rest = left,
                None => return Ok(false),
            }
        }
    };
    compared().unwrap_or(false)
}

/// Renames the initrd last. After a failure in between, the old initrd is still there and refuses
/// the new disk; a new initrd with an old disk cannot occur.
fn appear(initrd: Option<Staged>, others: Vec<Staged>) -> Result<()> {
    others.into_iter().chain(initrd).try_for_each(Staged::commit)
}

/// Reads the kernel image: from Debian's path, or the only file with the name of a kernel image.
fn kernel_image(trees: &[Tree], release: &str) -> Result<Vec<u8>> {
    let installed = format!("boot/vmlinuz-{release}");
    let named =
        |path: &str| ["vmlinux", "vmlinuz", "bzImage"].iter().any(|name| base_name(path).starts_with(name));
    let files = || trees.iter().flat_map(|tree| tree.files.iter().map(move |file| (tree, file)));
    let mut images = files().filter(|(_, file)| file.path == installed);
    let mut others = files().filter(|(_, file)| named(&file.path));
    match (images.next(), others.next(), others.next()) {
        (Some((tree, file)), _, _) | (None, Some((tree, file)), None) => tree.read(file),
        (None, first, _) => {
            let found = if first.is_some() { "several images" } else { "none" };
            let origins: Vec<_> = trees.iter().map(|tree| tree.origin.as_str()).collect();
            Err(Error::new(format!("{}: expected {installed} or one kernel image, found {found}", origins.join(", ")))
                .hint("name the artifact with the image in the profile: sets = [\"kernel\"], with a file named vmlinux…, vmlinuz… or bzImage…"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn content_is_compared_to_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let (path, content) = (dir.path().join("file"), vec![7; CHUNK + 1]);
        assert!(!has_content(&path, &content), "there is no file");
        fs::write(&path, &content).unwrap();
        assert!(has_content(&path, &content));
        assert!(
            !has_content(&path, &content[..CHUNK]) && !has_content(&path, &[&content[..], &[7]].concat())
        );
        assert!(!has_content(&path, &[]) && !has_content(&path, &vec![8; CHUNK + 1]));
    }

    #[test]
    fn failed_write_leaves_no_new_initrd_with_an_old_disk() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::write(at("initrd"), "old").unwrap();
        let staged = |name: &str| {
            let path = at(name);
            Staged::new(&path, 0o644, |file| file.write_all(b"new").doing("writing", &path)).unwrap()
        };
        let (initrd, disk) = (staged("initrd"), staged("disk"));
        // Another process creates a directory at the path of the disk.
        fs::create_dir(at("disk")).unwrap();
        assert!(appear(Some(initrd), vec![disk]).is_err());
        assert_eq!(fs::read_to_string(at("initrd")).unwrap(), "old");
        fs::remove_dir(at("disk")).unwrap();
        appear(Some(staged("initrd")), vec![staged("disk")]).unwrap();
        assert_eq!(fs::read_to_string(at("initrd")).unwrap(), "new");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
    }
}
