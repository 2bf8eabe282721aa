//! Unpacks Debian packages and tar archives. An archive is hostile: no entry leaves the root, none is written through
//! a link, no device nodes, sizes bounded.

use crate::cache::Hasher;
use crate::error::{Doing, Error, Result};
use std::collections::HashSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

/// One archive may unpack to so many bytes.
const MAX_UNPACKED: u64 = 8 << 30;
/// One archive may hold so many entries.
const MAX_ENTRIES: usize = 500_000;
/// Directories of an unmerged `/` that live below `/usr`.
const MERGED: [&str; 4] = ["bin", "sbin", "lib", "lib64"];

/// A regular file that was unpacked.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Unpacked {
    /// Path below the root.
    pub path: String,
    /// Size in bytes.
    pub size: u64,
    /// SHA-256 of the content.
    pub sha256: String,
    /// Whether it is executable.
    pub executable: bool,
}

/// Where to unpack, and how.
pub struct Unpacker<'a> {
    root: &'a Path,
    checked: HashSet<PathBuf>,
    bytes: u64,
    entries: usize,
    files: Vec<Unpacked>,
}

impl<'a> Unpacker<'a> {
    /// Unpacks below `root`, which exists.
    pub fn new(root: &'a Path) -> Self {
        Self { root, checked: HashSet::new(), bytes: 0, entries: 0, files: Vec::new() }
    }

    /// Unpacks the data of a Debian package.
    pub fn deb(&mut self, package: &Path) -> Result<()> {
        let file = File::open(package).doing("opening", package)?;
        let mut archive = ar::Archive::new(BufReader::new(file));
        while let Some(member) = archive.next_entry() {
            let member = member.map_err(|error| damaged(package, error))?;
            let name = String::from_utf8_lossy(member.header().identifier()).into_owned();
            if name.trim_end_matches('/').starts_with("data.tar") {
                return self.tar(decompressor(name.trim_end_matches('/'), member)?, package);
            }
        }
        Err(Error::new(format!(
            "{}: expected a Debian package with a data.tar, found none",
            package.display()
        ))
        .hint("the package is damaged: remove it from the cache and run again"))
    }

    /// Unpacks a tar stream that came out of `origin`.
    pub fn tar(&mut self, stream: impl Read, origin: &Path) -> Result<()> {
        let mut archive = tar::Archive::new(stream);
        for entry in archive.entries().map_err(|error| damaged(origin, error))? {
            let mut entry = entry.map_err(|error| damaged(origin, error))?;
            self.entries += 1;
            if self.entries > MAX_ENTRIES {
                return Err(Error::new(format!("{}: more than {MAX_ENTRIES} entries", origin.display())));
            }
            self.entry(&mut entry, origin)?;
        }
        Ok(())
    }

    /// What was unpacked, sorted by path.
    pub fn finish(mut self) -> Vec<Unpacked> {
        self.files.sort_by(|a, b| a.path.cmp(&b.path));
        self.files.dedup_by(|later, earlier| later.path == earlier.path);
        self.files
    }

    fn entry(&mut self, entry: &mut tar::Entry<impl Read>, origin: &Path) -> Result<()> {
        let raw = entry.path().map_err(|error| damaged(origin, error))?.into_owned();
        let Some(relative) = inside(&raw) else {
            return Err(refused(origin, &raw, "its path leaves the root"));
        };
        if relative.as_os_str().is_empty() {
            return Ok(());
        }
        let kind = entry.header().entry_type();
        if kind.is_dir() {
            return self.directory(&relative, origin);
        }
        if let Some(parent) = relative.parent() {
            self.directory(parent, origin)?;
        }
        let target = self.root.join(&relative);
        if kind.is_symlink()
            && target.is_dir()
            && MERGED.iter().any(|dir| relative == Path::new("usr").join(dir))
        {
            // base-files brings `/bin -> usr/bin`; what it points to is already here.
            return Ok(());
        }
        match kind {
            tar::EntryType::Regular | tar::EntryType::Continuous => {
                self.file(entry, &relative, &target, origin)
            }
            tar::EntryType::Symlink => {
                let link = entry.link_name().map_err(|error| damaged(origin, error))?.unwrap_or_default();
                replace(&target)?;
                std::os::unix::fs::symlink(&link, &target).doing("linking", &target)
            }
            tar::EntryType::Link => {
                let link = entry
                    .link_name()
                    .map_err(|error| damaged(origin, error))?
                    .unwrap_or_default()
                    .into_owned();
                self.hard_link(&link, &target, origin)
            }
            other => Err(refused(origin, &raw, &format!("entries of type {other:?} are not unpacked"))),
        }
    }

    fn file(
        &mut self,
        entry: &mut tar::Entry<impl Read>,
        relative: &Path,
        target: &Path,
        origin: &Path,
    ) -> Result<()> {
        self.bytes += entry.size();
        if self.bytes > MAX_UNPACKED {
            return Err(Error::new(format!(
                "{}: unpacks to more than {MAX_UNPACKED} bytes",
                origin.display()
            )));
        }
        replace(target)?;
        let mode = entry.header().mode().map_err(|error| damaged(origin, error))?;
        let mut out = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(target)
            .doing("creating", target)?;
        let mut hasher = Hasher::default();
        let size = copy(entry, &mut out, &mut hasher).map_err(|error| match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => error_writing(target, error),
            _ => damaged(origin, error),
        })?;
        if let Ok(seconds) = entry.header().mtime() {
            let _ = out.set_modified(UNIX_EPOCH + Duration::from_secs(seconds));
        }
        out.set_permissions(fs::Permissions::from_mode((mode & 0o755) | 0o644))
            .doing("setting the mode of", target)?;
        self.files.push(Unpacked {
            path: relative.to_string_lossy().into_owned(),
            size,
            sha256: hasher.hex(),
            executable: mode & 0o111 != 0,
        });
        Ok(())
    }

    fn hard_link(&mut self, link: &Path, target: &Path, origin: &Path) -> Result<()> {
        let source = inside(link).ok_or_else(|| refused(origin, link, "its path leaves the root"))?;
        if let Some(parent) = source.parent() {
            self.directory(parent, origin)?;
        }
        replace(target)?;
        fs::hard_link(self.root.join(&source), target).doing("linking", target)?;
        if let Some(same) = self.files.iter().find(|file| Path::new(&file.path) == source) {
            let path = target.strip_prefix(self.root).expect("targets are below the root");
            let file = Unpacked { path: path.to_string_lossy().into_owned(), ..same.clone() };
            self.files.push(file);
        }
        Ok(())
    }

    /// Makes a directory and its parents; none may be a link.
    fn directory(&mut self, relative: &Path, origin: &Path) -> Result<()> {
        if self.checked.contains(relative) || relative.as_os_str().is_empty() {
            return Ok(());
        }
        if let Some(parent) = relative.parent() {
            self.directory(parent, origin)?;
        }
        let path = self.root.join(relative);
        match fs::create_dir(&path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                if !fs::symlink_metadata(&path).doing("reading", &path)?.is_dir() {
                    return Err(refused(origin, relative, "a parent of it is a link or a file"));
                }
            }
            result => result.doing("creating", &path)?,
        }
        self.checked.insert(relative.to_owned());
        Ok(())
    }
}

/// The path below the root that an archive's path means, with `/bin` and its like moved below `/usr`; `None` when it
/// would leave the root.
fn inside(path: &Path) -> Option<PathBuf> {
    let mut result = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => {
                if result.as_os_str().is_empty() && MERGED.iter().any(|dir| name == *dir) {
                    result.push("usr");
                }
                result.push(name);
            }
            Component::CurDir | Component::RootDir => {}
            Component::ParentDir | Component::Prefix(_) => return None,
        }
    }
    Some(result)
}

/// The decompressor that a file name asks for.
pub fn decompressor<'a>(name: &str, stream: impl Read + 'a) -> Result<Box<dyn Read + 'a>> {
    match Path::new(name).extension().and_then(|extension| extension.to_str()) {
        Some("xz") => Ok(Box::new(liblzma::read::XzDecoder::new(stream))),
        Some("zst") => {
            let decoder = zstd::Decoder::new(stream)
                .map_err(|error| Error::new("starting the zstd decoder").source(error))?;
            Ok(Box::new(decoder))
        }
        Some("gz") => Ok(Box::new(flate2::read::GzDecoder::new(stream))),
        Some("tar" | "ko") => Ok(Box::new(stream)),
        _ => Err(Error::new(format!("{name}: expected a file that ends in .xz, .zst, .gz, .tar or .ko"))),
    }
}

fn copy(input: &mut impl Read, out: &mut File, hasher: &mut Hasher) -> io::Result<u64> {
    let mut buffer = vec![0; 128 << 10];
    let mut total = 0;
    loop {
        let got = input.read(&mut buffer)?;
        if got == 0 {
            return Ok(total);
        }
        out.write_all(&buffer[..got])?;
        hasher.write_all(&buffer[..got])?;
        total += got as u64;
    }
}

/// Removes a file that an earlier archive put there.
fn replace(target: &Path) -> Result<()> {
    match fs::symlink_metadata(target) {
        Ok(metadata) if metadata.is_dir() => Err(Error::new(format!(
            "{}: is a directory, an archive has a file of that name",
            target.display()
        ))),
        Ok(_) => fs::remove_file(target).doing("replacing", target),
        Err(_) => Ok(()),
    }
}

fn damaged(origin: &Path, error: io::Error) -> Error {
    Error::new(format!("{}: is truncated or damaged", origin.display()))
        .source(error)
        .hint("remove it and run again: it will be fetched anew")
}

fn error_writing(target: &Path, error: io::Error) -> Error {
    Err::<(), _>(error).doing("writing", target).expect_err("it was an error")
}

fn refused(origin: &Path, entry: &Path, why: &str) -> Error {
    Error::new(format!("{}: entry {:?} is refused: {why}", origin.display(), entry.display()))
        .hint("this is not an archive as its publisher makes them; check where it came from")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(kind: tar::EntryType, size: u64) -> tar::Header {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(0o755);
        header.set_size(size);
        header
    }

    /// Writes the name without the checks that the tar crate's writer makes.
    fn raw(
        builder: &mut tar::Builder<Vec<u8>>,
        name: &str,
        kind: tar::EntryType,
        link: &str,
        content: &[u8],
    ) {
        let mut header = header(kind, content.len() as u64);
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_cksum();
        builder.append(&header, content).unwrap();
    }

    fn unpack(build: impl FnOnce(&mut tar::Builder<Vec<u8>>)) -> (tempfile::TempDir, Result<Vec<Unpacked>>) {
        let mut builder = tar::Builder::new(Vec::new());
        build(&mut builder);
        let bytes = builder.into_inner().unwrap();
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("root")).unwrap();
        let root = dir.path().join("root");
        let mut unpacker = Unpacker::new(&root);
        let result = unpacker.tar(&bytes[..], Path::new("test.tar"));
        let files = unpacker.finish();
        (dir, result.map(|()| files))
    }

    #[test]
    fn files_are_unpacked_merged_and_hashed() {
        let (dir, files) = unpack(|tar| {
            raw(tar, "./lib/x", tar::EntryType::Regular, "", b"hello");
            raw(tar, "usr/y", tar::EntryType::Link, "./lib/x", b"");
        });
        let files = files.unwrap();
        assert_eq!(fs::read(dir.path().join("root/usr/lib/x")).unwrap(), b"hello");
        assert_eq!(files.len(), 2);
        assert!(files[0].sha256.starts_with("2cf24dba") && files[0].executable);
    }

    #[test]
    fn nothing_leaves_the_root() {
        for name in ["../evil", "a/../../evil"] {
            let (dir, result) = unpack(|tar| raw(tar, name, tar::EntryType::Regular, "", b"x"));
            assert!(result.unwrap_err().to_string().contains("leaves the root"));
            assert!(!dir.path().join("evil").exists());
        }
        let (dir, result) = unpack(|tar| raw(tar, "/evil", tar::EntryType::Regular, "", b"x"));
        result.unwrap();
        assert!(dir.path().join("root/evil").exists());
    }

    #[test]
    fn nothing_is_written_through_a_link() {
        let (dir, result) = unpack(|tar| {
            raw(tar, "out", tar::EntryType::Symlink, "..", b"");
            raw(tar, "out/evil", tar::EntryType::Regular, "", b"x");
        });
        assert!(result.unwrap_err().to_string().contains("is a link"));
        assert!(!dir.path().join("evil").exists());
        let (_dir, result) = unpack(|tar| raw(tar, "hard", tar::EntryType::Link, "../../etc/passwd", b""));
        assert!(result.is_err());
    }

    #[test]
    fn device_nodes_are_refused() {
        let (_dir, result) = unpack(|tar| raw(tar, "null", tar::EntryType::Char, "", b""));
        assert!(result.unwrap_err().to_string().contains("not unpacked"));
    }

    #[test]
    fn a_truncated_archive_says_so() {
        let mut builder = tar::Builder::new(Vec::new());
        raw(&mut builder, "x", tar::EntryType::Regular, "", &[7; 4000]);
        let bytes = builder.into_inner().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let error = Unpacker::new(dir.path()).tar(&bytes[..2000], Path::new("t.tar")).unwrap_err();
        assert!(error.to_string().contains("truncated"), "{error}");
    }
}
