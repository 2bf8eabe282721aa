//! Atomic creation of files and directories: they are created under a temporary name, then renamed.

use super::error::{Doing, Result};
use super::interrupt::Guard;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

/// Prefix of the names of unfinished files.
pub const TEMPORARY: &str = ".gpu-initrd-";

/// A directory with a temporary name.
pub struct Scratch {
    dir: tempfile::TempDir,
    _guard: Guard,
}

impl Scratch {
    /// In `parent`, which exists.
    pub fn new(parent: &Path) -> Result<Self> {
        let dir = tempfile::Builder::new()
            .prefix(".partial-")
            .tempdir_in(parent)
            .doing("creating a temporary directory in", parent)?;
        let guard = Guard::new(dir.path());
        Ok(Self { dir, _guard: guard })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }
}

/// The last component of a path, also of one in an archive or an address: the part after the last
/// slash.
pub fn base_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// Sets permission bits.
pub fn set_mode(path: &Path, mode: u32) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).doing("setting the mode of", path)
}

/// A complete file under a temporary name next to its destination.
pub struct Staged {
    temporary: tempfile::NamedTempFile,
    path: PathBuf,
    _guard: Guard,
}

impl Staged {
    /// Writes the file and syncs it to disk.
    pub fn new(path: &Path, mode: u32, fill: impl FnOnce(&mut File) -> Result<()>) -> Result<Self> {
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        fs::create_dir_all(parent).doing("creating", parent)?;
        let mut temporary = tempfile::Builder::new()
            .prefix(TEMPORARY)
            .tempfile_in(parent)
            .doing("creating a temporary file in", parent)?;
        let guard = Guard::new(temporary.path());
        fill(temporary.as_file_mut())?;
        set_mode(temporary.path(), mode)?;
        temporary.as_file().sync_all().doing("writing", path)?;
        Ok(Self { temporary, path: path.to_owned(), _guard: guard })
    }

    /// Renames the file to its destination.
    pub fn commit(self) -> Result<()> {
        self.temporary.persist(&self.path).map_err(|error| error.error).doing("renaming to", &self.path)?;
        Ok(())
    }
}

/// Writes a file atomically: temporary name, fsync, rename.
pub fn write_atomically(path: &Path, mode: u32, fill: impl FnOnce(&mut File) -> Result<()>) -> Result<()> {
    Staged::new(path, mode, fill)?.commit()
}

/// Writes a text atomically.
pub fn write_text(path: &Path, text: &str) -> Result<()> {
    write_atomically(path, 0o644, |file| file.write_all(text.as_bytes()).doing("writing", path))
}

#[cfg(test)]
mod tests {
    use super::super::error::Error;
    use super::*;

    #[test]
    fn output_appears_completely_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out/file");
        assert!(write_atomically(&path, 0o600, |_| Err(Error::new("no"))).is_err());
        assert_eq!(fs::read_dir(dir.path().join("out")).unwrap().count(), 0);
        write_atomically(&path, 0o600, |file| file.write_all(b"x").doing("writing", Path::new("x"))).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"x");
    }
}
