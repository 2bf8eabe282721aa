//! The loader of musl with gcompat. It has no cache, but a file with a list of directories.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::confined_fs::{EntryType, RootDir, RootError};
use crate::ldcache::{Resolved, Via};

/// Search path of the loader if the file is missing (musl, ldso/dynlink.c).
const DEFAULT: &str = "/lib:/usr/local/lib:/usr/lib";
/// Maximum size of the file in bytes.
const MAX_FILE: u64 = 64 * 1024;
/// Maximum number of directories in it.
const MAX_DIRS: usize = 256;

/// Returns the path of the file that **replaces** the default directories.
fn path_file() -> PathBuf {
    format!("/etc/ld-musl-{}.path", std::env::consts::ARCH).into()
}

/// Returns the directories that the loader searches.
pub fn search_path(root: &RootDir) -> Vec<PathBuf> {
    let text = root.read(&path_file(), MAX_FILE).unwrap_or_else(|_| DEFAULT.into());
    let dirs = text.split(|b| matches!(b, b':' | b'\n')).filter(|dir| !dir.is_empty());
    dirs.take(MAX_DIRS).map(|dir| OsStr::from_bytes(dir).into()).collect()
}

/// Makes sure that `dir` is searched. Returns whether the file was written, which is not needed if `dir` is searched
/// already, as default directories are in most images.
///
/// # Errors
/// [`RootError`] when the file cannot be written.
pub fn keep_directory(root: &RootDir, dir: &Path) -> Result<bool, RootError> {
    match root.read(&path_file(), MAX_FILE) {
        Err(error) if !error.is_not_found() => return Err(error),
        _ => {}
    }
    let canonical = |path: &Path| root.canonical(path).unwrap_or_else(|_| path.to_owned());
    let mut dirs = search_path(root);
    if dirs.iter().any(|searched| canonical(searched) == canonical(dir)) {
        return Ok(false);
    }
    dirs.push(dir.to_owned());
    let mut text: Vec<u8> =
        dirs.iter().map(|dir| dir.as_os_str().as_bytes()).collect::<Vec<_>>().join(&b'\n');
    text.push(b'\n');
    root.write_atomic(&path_file(), &text, 0o644)?;
    Ok(true)
}

/// Returns the file that a program opens for `soname`.
pub fn resolve(root: &RootDir, soname: &str, library_path: Option<&OsStr>) -> Option<Resolved> {
    let listed = library_path.map(OsStr::as_bytes).unwrap_or_default();
    let listed = listed.split(|b| matches!(b, b':' | b'\n')).filter(|dir| !dir.is_empty());
    let listed = listed.map(|dir| (PathBuf::from(OsStr::from_bytes(dir)), Via::LibraryPath));
    let default = search_path(root).into_iter().map(|dir| (dir, Via::DefaultDirectory));
    listed.chain(default).find_map(|(dir, via)| {
        let path = dir.join(soname);
        let is_file = root.stat(&path).is_ok_and(|stat| stat.kind == EntryType::File);
        Some(Resolved {
            file: root.canonical(&path).ok().filter(|_| is_file)?,
            path,
            via,
            variants: Vec::new(),
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_kept_whatever_is_added() {
        let tmp = tempfile::tempdir().unwrap();
        for dir in ["etc", "lib", "opt/driver"] {
            std::fs::create_dir_all(tmp.path().join(dir)).unwrap();
        }
        std::fs::write(tmp.path().join("opt/driver/libcuda.so.1"), "x").unwrap();
        let root = RootDir::open(tmp.path()).unwrap();
        assert!(!keep_directory(&root, Path::new("/lib")).unwrap());
        assert!(!root.exists(&path_file()), "nothing is written without need");
        assert!(resolve(&root, "libcuda.so.1", None).is_none());
        assert!(keep_directory(&root, Path::new("/opt/driver")).unwrap());
        assert!(!keep_directory(&root, Path::new("/opt/driver")).unwrap());
        let text = String::from_utf8(root.read(&path_file(), 1000).unwrap()).unwrap();
        assert_eq!(text, "/lib\n/usr/local/lib\n/usr/lib\n/opt/driver\n");
        let found = resolve(&root, "libcuda.so.1", None).unwrap();
        assert_eq!(
            (found.file.to_str(), found.via),
            (Some("/opt/driver/libcuda.so.1"), Via::DefaultDirectory)
        );
        let first = resolve(&root, "libcuda.so.1", Some(OsStr::new("/opt/driver"))).unwrap();
        assert_eq!(first.via, Via::LibraryPath);
    }
}
