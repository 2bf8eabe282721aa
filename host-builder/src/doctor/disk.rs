//! A container root that is a disk image: detected from its superblock, unpacked by a sandboxed
//! program.

use crate::common::error::{Doing, Error, Result};
use crate::common::space;
use crate::common::ui::megabytes;
use crate::initramfs::file_type::{EROFS, EXT, SQUASHFS, describe};
use crate::programs::sandbox::Tools;
use std::borrow::Cow;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// A file system for container roots.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ImageFileSystem {
    /// ext2, ext3 and ext4.
    Ext,
    /// EROFS.
    Erofs,
    /// SquashFS.
    Squashfs,
}

/// Offset, bytes and file system of each superblock's magic number.
const MAGICS: &[((u64, &[u8]), ImageFileSystem)] =
    &[(EXT, ImageFileSystem::Ext), (EROFS, ImageFileSystem::Erofs), (SQUASHFS, ImageFileSystem::Squashfs)];

impl ImageFileSystem {
    /// Detects the file system of a disk image.
    pub fn of(path: &Path) -> Result<Self> {
        let metadata = fs::metadata(path).doing("reading", path)?;
        if !metadata.is_file() && !metadata.file_type().is_block_device() {
            return Err(Error::new(format!(
                "{}: expected a disk image, found {}",
                path.display(),
                describe(path)
            ))
            .hint("pass a container root: a disk image (ext4, EROFS or SquashFS) or a directory"));
        }
        let file = File::open(path).doing("opening", path)?;
        let is = |((offset, magic), _): &&((u64, &[u8]), ImageFileSystem)| {
            let mut found = vec![0; magic.len()];
            file.read_exact_at(&mut found, *offset).is_ok() && found == *magic
        };
        MAGICS.iter().find(is).map(|(_, kind)| *kind).ok_or_else(|| {
            Error::new(format!(
                "{}: expected ext4, EROFS or SquashFS, found {}",
                path.display(),
                describe(path)
            ))
            .hint(
                "pass the file system itself, without a partition table; or unpack it and pass the directory",
            )
        })
    }

    /// The program that unpacks it.
    pub fn program(self) -> &'static str {
        match self {
            Self::Ext => "debugfs",
            Self::Erofs => "fsck.erofs",
            Self::Squashfs => "unsquashfs",
        }
    }

    /// The Debian package of the program.
    pub fn package(self) -> &'static str {
        match self {
            Self::Ext => "e2fsprogs",
            Self::Erofs => "erofs-utils",
            Self::Squashfs => "squashfs-tools",
        }
    }

    fn words(self) -> &'static [&'static str] {
        match self {
            Self::Ext => &["debugfs", "-R", "rdump / /out/root", "/image"],
            Self::Erofs => &["fsck.erofs", "--extract=/out/root", "--overwrite", "--no-preserve", "/image"],
            Self::Squashfs => &[
                "unsquashfs",
                "-force",
                "-no-progress",
                "-quiet",
                "-no-xattrs",
                "-ignore-errors",
                "-d",
                "/out/root",
                "/image",
            ],
        }
    }
}

/// Unpacks `image` below `work`, where it creates two directories. Returns the directory, and what
/// could not be read.
pub fn unpack(
    tools: &Tools,
    kind: ImageFileSystem,
    image: &Path,
    work: &Path,
) -> Result<(PathBuf, Vec<String>)> {
    let (out, place) = (work.join("out"), work.join("confined"));
    let root = out.join("root");
    for dir in [&root, &place] {
        fs::create_dir_all(dir).doing("creating", dir)?;
    }
    let image = &*plain_file(image, work)?;
    let complaints = tools.run(kind.words(), image, &out, &place, &|line| is_complaint(kind, line));
    open_up(&out);
    let complaints = complaints?;
    Ok((root, complaints))
}

/// Returns the image as a regular file, because a program that parses untrusted data must not get a
/// device of this machine.
fn plain_file<'a>(image: &'a Path, work: &Path) -> Result<Cow<'a, Path>> {
    if !fs::metadata(image).doing("reading", image)?.file_type().is_block_device() {
        return Ok(Cow::Borrowed(image));
    }
    let size =
        File::open(image).and_then(|mut device| device.seek(SeekFrom::End(0))).doing("reading", image)?;
    copy(image, size, space::half(work)?, work).map(Cow::Owned)
}

/// `most`: bytes that may be used there.
fn copy(image: &Path, size: u64, most: u64, work: &Path) -> Result<PathBuf> {
    if size > most {
        let disk = format!("{}: a disk of {}", image.display(), megabytes(size));
        return Err(space::short(&format!("{disk} must be copied before it is read"), work, most));
    }
    let place = work.join("copy");
    let mut out = File::create(&place).doing("creating", &place)?;
    let mut input = File::open(image).doing("opening", image)?.take(size);
    std::io::copy(&mut input, &mut out).doing("copying to", &place)?;
    Ok(place)
}

/// Makes directories accessible to their owner, so that they can be read and removed.
fn open_up(directory: &Path) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            continue;
        }
        let path = entry.path();
        if let Ok(metadata) = entry.metadata() {
            let mode = metadata.permissions().mode() | 0o700;
            // A directory that stays inaccessible is reported when it is read.
            let _ = fs::set_permissions(&path, fs::Permissions::from_mode(mode));
        }
        open_up(&path);
    }
}

/// Whether a line reports that something is missing. Owners cannot be kept, and are not needed.
/// debugfs always exits with success.
fn is_complaint(kind: ImageFileSystem, line: &str) -> bool {
    let usual = [
        "while changing ownership of",
        "debugfs ",
        "because you're not superuser",
        "could not create",
        "create_inode",
    ];
    let said = !line.trim().is_empty() && !usual.iter().any(|usual| line.contains(usual));
    said && (kind == ImageFileSystem::Ext
        || line.to_lowercase().contains("err")
        || line.to_lowercase().contains("fail"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_copied_where_there_is_space_for_twice_as_much() {
        let dir = tempfile::tempdir().unwrap();
        let device = dir.path().join("device");
        fs::write(&device, "0123456789").unwrap();
        let error = copy(&device, 10, 9, dir.path()).unwrap_err();
        assert!(error.to_string().contains("half of the space") && error.remedy().is_some(), "{error}");
        assert!(!dir.path().join("copy").exists());
        assert_eq!(fs::read(copy(&device, 10, 10, dir.path()).unwrap()).unwrap(), b"0123456789");
        // A file is taken as it is.
        assert_eq!(plain_file(&device, dir.path()).unwrap(), Cow::Borrowed(&*device));
    }

    #[test]
    fn a_disk_is_told_by_its_superblock() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk");
        for ((offset, magic), kind) in MAGICS {
            let mut bytes = vec![0; 4096];
            let at = usize::try_from(*offset).unwrap();
            bytes[at..at + magic.len()].copy_from_slice(magic);
            fs::write(&path, bytes).unwrap();
            assert_eq!(ImageFileSystem::of(&path).unwrap(), *kind);
        }
        for bytes in [&b""[..], &[0; 4096]] {
            fs::write(&path, bytes).unwrap();
            assert!(ImageFileSystem::of(&path).unwrap_err().remedy().unwrap().contains("partition table"));
        }
        assert!(
            ImageFileSystem::of(dir.path()).is_err() && ImageFileSystem::of(Path::new("/dev/null")).is_err()
        );
    }

    #[test]
    fn closed_directories_are_opened_and_no_link_is_followed() {
        let dir = tempfile::tempdir().unwrap();
        let (tree, outside) = (dir.path().join("tree"), dir.path().join("outside"));
        let closed = tree.join("a/closed");
        fs::create_dir_all(closed.join("inner")).unwrap();
        fs::create_dir(&outside).unwrap();
        std::os::unix::fs::symlink(&outside, tree.join("link")).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        let set = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        set(&closed.join("inner"), 0o055);
        set(&closed, 0);
        set(&outside, 0o500);
        open_up(&tree);
        assert_eq!((mode(&closed), mode(&closed.join("inner")), mode(&outside)), (0o700, 0o755, 0o500));
    }

    #[test]
    fn what_debugfs_says_of_owners_is_no_complaint() {
        let is = |line| is_complaint(ImageFileSystem::Ext, line);
        assert!(!is("rdump: Invalid argument while changing ownership of /out/root/etc"));
        assert!(!is("debugfs 1.47.2 (1-Jan-2025)") && !is(""));
        assert!(is("dump_file: Ext2 inode checksum does not match while reading inode"));
        assert!(is("/image: Filesystem not open"));
    }
}
