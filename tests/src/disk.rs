//! Disk images of a directory: what a guest gets as its container root, its upper layer or its configuration.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
};

use crate::{RigError, process::run, tools::Tools};

/// Free space that a writable image has beyond its content, and the size of an empty one.
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

/// Makes an image of `source` at `output`, with programs of `tools`. The files belong to root in the image, whoever runs this. The image
/// appears whole or not at all.
pub fn make(tools: &dyn Tools, kind: FileSystem, source: &Path, output: &Path) -> Result<(), RigError> {
    let directory = output.parent().ok_or_else(|| RigError::Malformed {
        what: "the image's path".into(),
        detail: format!("{} has no directory", output.display()),
    })?;
    let new = tempfile::Builder::new().prefix(".new-").tempfile_in(directory);
    let new = new.map_err(|e| RigError::io("make a file in", directory, e))?.into_temp_path();
    let visible = [source.to_owned(), directory.to_owned()];
    run(&mut match kind {
        FileSystem::Ext4 => ext4(tools, &visible, source, &new)?,
        FileSystem::Erofs => erofs(tools, &visible, source, &new),
        FileSystem::Squashfs => squashfs(tools, &visible, source, &new),
    })?;
    new.persist(output).map_err(|e| RigError::io("rename to", output, e.error))
}

/// An empty writable ext4 image, for an upper layer.
pub fn empty(tools: &dyn Tools, output: &Path) -> Result<(), RigError> {
    let nothing =
        tempfile::tempdir().map_err(|e| RigError::io("make a directory in", std::env::temp_dir(), e))?;
    make(tools, FileSystem::Ext4, nothing.path(), output)
}

fn ext4(tools: &dyn Tools, visible: &[PathBuf], source: &Path, image: &Path) -> Result<Command, RigError> {
    // A tenth for the tables; blocks are larger than most files.
    let content = occupied(source)?;
    let size = (content + content / 10).div_ceil(MIB) * MIB + SPARE_MIB * MIB;
    File::options()
        .write(true)
        .open(image)
        .and_then(|file| file.set_len(size))
        .map_err(|e| RigError::io("size", image, e))?;
    let mut command = tools.command("mkfs.ext4", visible);
    command
        .args(["-q", "-F", "-m", "0", "-E", "root_owner=0:0,lazy_itable_init=1", "-d"])
        .arg(source)
        .arg(image);
    Ok(command)
}

fn erofs(tools: &dyn Tools, visible: &[PathBuf], source: &Path, image: &Path) -> Command {
    let mut command = tools.command("mkfs.erofs", visible);
    command.args(["--quiet", "--all-root", "-zlz4"]).arg(image).arg(source);
    command
}

fn squashfs(tools: &dyn Tools, visible: &[PathBuf], source: &Path, image: &Path) -> Command {
    let mut command = tools.command("mksquashfs", visible);
    command.arg(source).arg(image);
    command.args([
        "-noappend",
        "-quiet",
        "-no-progress",
        "-all-root",
        "-comp",
        "zstd",
        "-Xcompression-level",
        "3",
    ]);
    command
}

/// Bytes that the files below `directory` take in blocks of 4 KiB, links and directories counted as one block.
fn occupied(directory: &Path) -> Result<u64, RigError> {
    const BLOCK: u64 = 4096;
    let mut total = 0;
    let entries = fs::read_dir(directory).map_err(|e| RigError::io("list", directory, e))?;
    for entry in entries {
        let entry = entry.map_err(|e| RigError::io("list", directory, e))?;
        let metadata = entry.metadata().map_err(|e| RigError::io("look at", entry.path(), e))?;
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
    use crate::tools::Host;

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
        let command = ext4(&Host, &[], &source, &image).unwrap();
        let (source, image_path) = (source.to_str().unwrap(), image.to_str().unwrap());
        let options = ["mkfs.ext4", "-q", "-F", "-m", "0", "-E", "root_owner=0:0,lazy_itable_init=1", "-d"];
        assert_eq!(words(&command), [&options[..], &[source, image_path]].concat());
        assert_eq!(image.metadata().unwrap().len(), (11 + 64) << 20);
    }

    #[test]
    fn read_only_images_belong_to_root() {
        let (source, image) = (Path::new("/s"), Path::new("/i"));
        assert_eq!(
            words(&erofs(&Host, &[], source, image)),
            ["mkfs.erofs", "--quiet", "--all-root", "-zlz4", "/i", "/s"]
        );
        assert_eq!(
            words(&squashfs(&Host, &[], source, image))[..7],
            ["mksquashfs", "/s", "/i", "-noappend", "-quiet", "-no-progress", "-all-root"]
        );
    }
}
