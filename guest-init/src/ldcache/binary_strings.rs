//! Facts from the strings in a root's loader, libc and `ldconfig`. The programs are read, never executed, and only up to a
//! limit.

use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use memchr::memmem;

use super::machine::Machine;
use crate::confined_fs::{EntryType, RootDir, read_full_at};

/// Maximum size of a loader or an `ldconfig` in bytes. They have about 200 KB and 1 MB.
const MAX_PROGRAM: u64 = 8 << 20;
/// Maximum number of bytes of a libc searched for its version. It has about 2 MB, with debugging information 20 MB.
const MAX_LIBC: u64 = 32 << 20;
/// Maximum number of directories built into a loader. Debian's has four.
const MAX_DIRS: usize = 16;
/// File name of the cache, whose full path is in every loader.
const CACHE_NAME: &[u8] = b"/ld.so.cache";

/// Settings that a loader was built with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Loader {
    /// The default directories, in its order.
    pub dirs: Vec<PathBuf>,
    /// Its cache.
    pub cache: PathBuf,
    /// Its version, which it contains since glibc 2.33.
    pub glibc: Option<(u32, u32)>,
}

/// Reads a loader. Returns `None` if it is not glibc's (musl's has no cache), or for another machine.
pub(super) fn loader(root: &RootDir, path: &Path, machine: Machine) -> Option<Loader> {
    let bytes = root.read(path, MAX_PROGRAM).ok()?;
    if !machine.opens(&bytes) {
        return None;
    }
    let mut cache = None;
    let mut glibc = None;
    let (mut dirs, mut run): (Vec<&[u8]>, Vec<&[u8]>) = Default::default();
    for string in strings(&bytes) {
        if is_built_in_dir(string) {
            run.push(string);
            continue;
        }
        // The list is longer than other occurrences of its single directories.
        if run.len() > dirs.len() && run.len() <= MAX_DIRS {
            dirs.clone_from(&run);
        }
        run.clear();
        if cache.is_none() && string.starts_with(b"/") && string.ends_with(CACHE_NAME) && is_path(string) {
            cache = Some(path_of(string));
        }
        glibc = glibc.or_else(|| if string.starts_with(b"ld.so (") { version(string) } else { None });
    }
    let dirs = dirs.iter().map(|dir| path_of(&dir[..dir.len() - 1])).collect::<Vec<_>>();
    if dirs.is_empty() { None } else { Some(Loader { dirs, cache: cache?, glibc }) }
}

/// Returns the byte strings between the NULs of a program.
fn strings(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = Some(bytes);
    std::iter::from_fn(move || {
        let bytes = rest?;
        let end = memchr::memchr(0, bytes);
        rest = end.map(|end| &bytes[end + 1..]);
        Some(&bytes[..end.unwrap_or(bytes.len())])
    })
}

/// `/lib/`, `/usr/lib64/`, `/opt/glibc/lib/x86_64-linux-gnu/`: absolute, one slash at the end, and a library
/// directory by its name.
fn is_built_in_dir(string: &[u8]) -> bool {
    let Some(path) = string.strip_suffix(b"/").filter(|path| path.starts_with(b"/") && is_path(path)) else {
        return false;
    };
    let parts: Vec<&[u8]> = path[1..].split(|byte| *byte == b'/').collect();
    parts.iter().all(|part| !part.is_empty()) && parts.iter().any(|part| part.starts_with(b"lib"))
}

fn is_path(string: &[u8]) -> bool {
    string.len() < 4096 && string.iter().all(u8::is_ascii_graphic)
}

fn path_of(bytes: &[u8]) -> PathBuf {
    PathBuf::from(std::ffi::OsString::from_vec(bytes.to_vec()))
}

/// Parses the version in `GNU C Library (Debian GLIBC 2.36-9) stable release version 2.36.`
fn version(banner: &[u8]) -> Option<(u32, u32)> {
    const BEFORE: &[u8] = b"release version ";
    let at = memmem::find(banner, BEFORE)?;
    let text: Vec<u8> = banner[at + BEFORE.len()..].iter().take(16).copied().collect();
    let mut numbers = text.split(|byte| !byte.is_ascii_digit());
    let mut number = || std::str::from_utf8(numbers.next()?).ok()?.parse().ok();
    Some((number()?, number()?))
}

/// Returns the version of the libc at `path`, from its banner.
pub(super) fn libc_version(root: &RootDir, path: &Path) -> Option<(u32, u32)> {
    const BANNER: &[u8] = b"GNU C Library (";
    const BLOCK: usize = 256 * 1024;
    /// Maximum length of a banner line in bytes.
    const OVERLAP: usize = 256;
    let file = root.open_file(path, u64::MAX).ok()?;
    let mut block = vec![0; BLOCK + OVERLAP];
    let mut offset = 0;
    while offset < MAX_LIBC {
        let len = read_full_at(&file, &mut block, offset).ok()?;
        let text = &block[..len];
        let found = memmem::find(text, BANNER);
        if let Some(version) = found.and_then(|at| version(&text[at..text.len().min(at + OVERLAP)])) {
            return Some(version);
        }
        if len < block.len() {
            return None;
        }
        offset += BLOCK as u64;
    }
    None
}

/// Reads the `ldconfig` that writes `cache`: the program itself, not Ubuntu's wrapper script.
pub(super) fn ldconfig(root: &RootDir, cache: &Path) -> Option<Vec<u8>> {
    // /etc/ld.so.cache belongs to /sbin, /opt/glibc/etc/ld.so.cache to /opt/glibc/sbin.
    let prefix = cache.parent().and_then(Path::parent).unwrap_or(Path::new("/"));
    let names =
        ["sbin/ldconfig.real", "sbin/ldconfig", "usr/sbin/ldconfig", "bin/ldconfig", "usr/bin/ldconfig"];
    names.iter().find_map(|name| {
        let bytes = root.read(&prefix.join(name), MAX_PROGRAM).ok()?;
        bytes.starts_with(b"\x7fELF").then_some(bytes)
    })
}

/// Returns whether the header of the file at `path` is that of a library that the loader of `machine` opens.
pub(super) fn is_for(root: &RootDir, path: &Path, machine: Machine) -> bool {
    let mut head = [0; 64];
    let file = root.open_file(path, u64::MAX).ok();
    file.is_some_and(|file| {
        read_full_at(&file, &mut head, 0).ok() == Some(head.len()) && machine.opens(&head)
    })
}

/// Returns whether the search of a loader of `machine` ends at `path`: it opens the library, or fails because the file is
/// not one.
pub(super) fn is_taken(root: &RootDir, path: &Path, machine: Machine) -> bool {
    let Ok(stat) = root.stat(path) else { return false };
    let mut head = [0; 64];
    let read = root.open_file(path, u64::MAX).ok().and_then(|file| read_full_at(&file, &mut head, 0).ok());
    match read {
        Some(len) if len == head.len() && head.starts_with(b"\x7fELF") => machine.opens(&head),
        Some(_) => true,
        // A directory cannot be read, which ends the search too; a FIFO blocks it.
        None => stat.kind != EntryType::File,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(strings: &[u8]) -> Option<Loader> {
        let dir = tempfile::tempdir().unwrap();
        let mut bytes = b"\x7fELF\x02\x01\x01".to_vec();
        bytes.resize(18, 0);
        bytes.extend(if Machine::NATIVE == Machine::Aarch64 { [183, 0] } else { [62, 0] });
        bytes.resize(64, 0);
        bytes.extend(strings);
        std::fs::write(dir.path().join("ld.so"), bytes).unwrap();
        loader(&RootDir::open(dir.path()).unwrap(), Path::new("/ld.so"), Machine::NATIVE)
    }

    #[test]
    fn the_longest_list_of_directories_is_the_loaders() {
        let strings = b"/proc/self/fd/\0/lib64/\0/usr/lib64/\0x\0/usr/lib64/\0/etc/ld.so.cache\0\
            ld.so (GNU libc) stable release version 2.34.\n\0";
        let expected = Loader {
            dirs: vec!["/lib64".into(), "/usr/lib64".into()],
            cache: "/etc/ld.so.cache".into(),
            glibc: Some((2, 34)),
        };
        assert_eq!(found(strings), Some(expected));
        assert_eq!(found(b"/lib/\0no cache\0"), None, "musl");
        assert_eq!(found(b"/etc/ld.so.cache\0no directories\0"), None);
        let own = found(b"\0/usr/glibc-compat/lib/\0/usr/glibc-compat/etc/ld.so.cache\0").unwrap();
        assert_eq!(own.cache, Path::new("/usr/glibc-compat/etc/ld.so.cache"));
    }

    #[test]
    fn versions_are_read_from_banners() {
        assert_eq!(version(b"(Ubuntu GLIBC 2.35-0ubuntu3.8) stable release version 2.35."), Some((2, 35)));
        assert_eq!(version(b"development release version 2.43.9000."), Some((2, 43)));
        assert_eq!(version(b"release version "), None);
    }
}
