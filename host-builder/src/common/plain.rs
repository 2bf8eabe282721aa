//! Reads untrusted files, such as those from an archive: only regular files, and only up to a
//! limit. Devices and pipes are errors.

use super::error::{Doing, Error, Result};
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Most bytes of a text that a build reads. A kernel's list of modules has half a megabyte.
pub const MAX_TEXT: u64 = 64 << 20;

/// Flags so that opening a pipe does not block, and opening a terminal does not make it the
/// controlling one.
const NEVER_WAIT: OFlag = OFlag::O_NONBLOCK.union(OFlag::O_NOCTTY);

/// Opens a regular file.
pub fn open(path: &Path) -> io::Result<File> {
    regular(OpenOptions::new().read(true).custom_flags(NEVER_WAIT.bits()).open(path)?)
}

/// Opens a regular file below a directory from an archive. No link leads out of the directory.
fn open_below(directory: &Path, path: &str) -> io::Result<File> {
    let top = File::open(directory)?;
    let how = OpenHow::new()
        .flags(NEVER_WAIT | OFlag::O_RDONLY | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    regular(openat2(&top, path, how)?.into())
}

/// Reads a file opened by [`open`].
pub fn read(path: &Path, most: u64) -> Result<Vec<u8>> {
    open(path).and_then(|file| whole(file, most)).doing("reading", path)
}

/// Reads a text.
pub fn read_text(path: &Path) -> Result<String> {
    text(read(path, MAX_TEXT)?, path)
}

/// Reads a text that the user names. It may be a pipe, and its content is not trusted.
pub fn given(path: &Path) -> io::Result<String> {
    let bytes = whole(File::open(path)?, MAX_TEXT)?;
    String::from_utf8(bytes).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

/// Reads a file opened by [`open_below`].
pub fn read_below(directory: &Path, path: &str, most: u64) -> Result<Vec<u8>> {
    open_below(directory, path).and_then(|file| whole(file, most)).doing("reading", &directory.join(path))
}

/// Reads a text opened by [`open_below`].
pub fn read_text_below(directory: &Path, path: &str) -> Result<String> {
    text(read_below(directory, path, MAX_TEXT)?, &directory.join(path))
}

fn regular(file: File) -> io::Result<File> {
    if file.metadata()?.is_file() { Ok(file) } else { Err(io::Error::other("expected a regular file")) }
}

fn whole(file: File, most: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(most + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > most {
        return Err(io::Error::other(format!("expected at most {most} bytes")));
    }
    Ok(bytes)
}

fn text(bytes: Vec<u8>, path: &Path) -> Result<String> {
    String::from_utf8(bytes)
        .map_err(|error| Error::new(format!("{}: expected a text", path.display())).source(error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    #[test]
    fn file_that_is_not_regular_is_an_error_at_once() {
        let dir = tempfile::tempdir().unwrap();
        assert!(given(Path::new("/dev/zero")).unwrap_err().to_string().contains("at most"));
        let at = |name: &str| dir.path().join(name);
        nix::unistd::mkfifo(&at("pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        symlink("/dev/zero", at("endless")).unwrap();
        symlink("pipe", at("link")).unwrap();
        for name in ["pipe", "endless", "link", "."] {
            assert!(read(&at(name), 10).unwrap_err().chain().contains("expected a regular file"), "{name}");
        }
        fs::write(at("long"), "0123456789x").unwrap();
        assert!(read(&at("long"), 10).unwrap_err().chain().contains("at most 10 bytes"));
        assert_eq!(read(&at("long"), 11).unwrap(), b"0123456789x");
    }

    #[test]
    fn no_link_leads_out_of_the_directory() {
        let dir = tempfile::tempdir().unwrap();
        let inside = dir.path().join("inside");
        fs::create_dir(&inside).unwrap();
        fs::write(dir.path().join("secret"), "s").unwrap();
        fs::write(inside.join("good"), "g").unwrap();
        for target in ["../secret", "/etc/passwd", "/proc/self/root/etc/passwd", "/dev/zero"] {
            symlink(target, inside.join("link")).unwrap();
            assert!(read_text_below(&inside, "link").is_err(), "{target}");
            fs::remove_file(inside.join("link")).unwrap();
        }
        symlink("/good", inside.join("link")).unwrap();
        assert_eq!(read_text_below(&inside, "link").unwrap(), "g");
    }
}
