//! Creates disk images from directories, for the container root, the upper layer or the configuration of a guest.

use crate::common::error::{Doing, Error, Result};
use crate::common::interrupt::Guard;
use crate::programs::process::run;
use crate::programs::tools::Tools;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Free space of a writable image in addition to its content, and the size of an empty one.
const SPARE_MIB: u64 = 64;
const MIB: u64 = 1 << 20;

/// A file system that a container root may come on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileSystem {
    /// ext4, writable.
    Ext4,
    /// EROFS, compressed with LZ4.
    Erofs,
    /// `SquashFS`, compressed with zstd.
    Squashfs,
}

/// The owners of files in an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owners {
    /// Root owns all files, for directories that an unprivileged user unpacked.
    Root,
    /// The owners on this machine, for directories that root unpacked.
    Kept,
}

/// Makes an image of `source` at `output`, with programs of `tools`. The files belong to root in the image. It appears
/// whole or not at all.
pub fn make(tools: &dyn Tools, kind: FileSystem, source: &Path, output: &Path) -> Result<()> {
    make_owned(tools, kind, Owners::Root, source, output)
}

/// [`make`], with a say in whose the files are (ext4 always keeps owners).
pub fn make_owned(
    tools: &dyn Tools,
    kind: FileSystem,
    owners: Owners,
    source: &Path,
    output: &Path,
) -> Result<()> {
    let directory = output.parent().filter(|directory| directory.is_absolute()).ok_or_else(|| {
        Error::new(format!("{}: expected an absolute path for a disk image", output.display()))
    })?;
    let new = tempfile::Builder::new().prefix(".new-").tempfile_in(directory);
    let new = new.doing("creating a temporary file in", directory)?.into_temp_path();
    let _guard = Guard::new(&new);
    let visible = [source.to_owned(), directory.to_owned()];
    run(&mut match kind {
        FileSystem::Ext4 => ext4(tools, &visible, source, &new)?,
        FileSystem::Erofs => erofs(tools, &visible, owners, source, &new),
        FileSystem::Squashfs => squashfs(tools, &visible, owners, source, &new),
    })?;
    new.persist(output).map_err(|error| error.error).doing("renaming to", output)
}

/// Creates an empty writable ext4 image, for an upper layer.
pub fn empty(tools: &dyn Tools, output: &Path) -> Result<()> {
    let nothing = tempfile::tempdir().doing("creating a directory in", &std::env::temp_dir())?;
    make(tools, FileSystem::Ext4, nothing.path(), output)
}

fn ext4(tools: &dyn Tools, visible: &[PathBuf], source: &Path, image: &Path) -> Result<Command> {
    // A tenth for the tables; blocks are larger than most files.
    let content = occupied(source)?;
    let size = (content + content / 10).div_ceil(MIB) * MIB + SPARE_MIB * MIB;
    File::options()
        .write(true)
        .open(image)
        .and_then(|file| file.set_len(size))
        .doing("setting the size of", image)?;
    // All tables are written here: else the guest's kernel goes on writing them while the container runs.
    let mut command = tools.command("mkfs.ext4", visible);
    command
        .args(["-q", "-F", "-m", "0", "-E", "root_owner=0:0,lazy_itable_init=0", "-d"])
        .arg(source)
        .arg(image);
    Ok(command)
}

fn erofs(tools: &dyn Tools, visible: &[PathBuf], owners: Owners, source: &Path, image: &Path) -> Command {
    let mut command = tools.command("mkfs.erofs", visible);
    command.args(["--quiet", "-zlz4"]);
    if owners == Owners::Root {
        command.arg("--all-root");
    }
    command.arg(image).arg(source);
    command
}

fn squashfs(tools: &dyn Tools, visible: &[PathBuf], owners: Owners, source: &Path, image: &Path) -> Command {
    let mut command = tools.command("mksquashfs", visible);
    command.arg(source).arg(image);
    command.args(["-noappend", "-quiet", "-no-progress", "-comp", "zstd", "-Xcompression-level", "3"]);
    if owners == Owners::Root {
        command.arg("-all-root");
    }
    command
}

/// Bytes that the files below `directory` take in blocks of 4 KiB, links and directories counted as one block.
fn occupied(directory: &Path) -> Result<u64> {
    const BLOCK: u64 = 4096;
    let mut total = 0;
    for entry in fs::read_dir(directory).doing("listing", directory)? {
        let entry = entry.doing("listing", directory)?;
        let metadata = entry.metadata().doing("reading", &entry.path())?;
        total += metadata.len().div_ceil(BLOCK).max(1) * BLOCK;
        if metadata.is_dir() {
            total += occupied(&entry.path())?;
        }
    }
    Ok(total)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::programs::tools::HostTools;

    fn words(command: &Command) -> Vec<&str> {
        let program = command.get_program().to_str().unwrap();
        std::iter::once(program).chain(command.get_args().map(|a| a.to_str().unwrap())).collect()
    }

    #[test]
    fn ext4_arguments_and_size() {
        let dir = tempfile::tempdir().unwrap();
        let (source, image) = (dir.path().join("source"), dir.path().join("image"));
        fs::create_dir(&source).unwrap();
        fs::write(source.join("file"), vec![0; 10 << 20]).unwrap();
        File::create(&image).unwrap();
        let command = ext4(&HostTools, &[], &source, &image).unwrap();
        let (source, image_path) = (source.to_str().unwrap(), image.to_str().unwrap());
        let options = ["mkfs.ext4", "-q", "-F", "-m", "0", "-E", "root_owner=0:0,lazy_itable_init=0", "-d"];
        assert_eq!(words(&command), [&options[..], &[source, image_path]].concat());
        assert_eq!(image.metadata().unwrap().len(), (11 + 64) << 20);
    }

    #[test]
    fn read_only_images_belong_to_root_unless_owners_are_kept() {
        let (source, image) = (Path::new("/s"), Path::new("/i"));
        assert_eq!(
            words(&erofs(&HostTools, &[], Owners::Root, source, image)),
            ["mkfs.erofs", "--quiet", "-zlz4", "--all-root", "/i", "/s"]
        );
        assert_eq!(
            words(&erofs(&HostTools, &[], Owners::Kept, source, image)),
            ["mkfs.erofs", "--quiet", "-zlz4", "/i", "/s"]
        );
        let squashfs = squashfs(&HostTools, &[], Owners::Root, source, image);
        assert_eq!(words(&squashfs)[..5], ["mksquashfs", "/s", "/i", "-noappend", "-quiet"]);
        assert_eq!(words(&squashfs).last(), Some(&"-all-root"));
    }
}
