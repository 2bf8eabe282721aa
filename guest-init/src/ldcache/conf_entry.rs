//! Adds directories to ld.so.conf, so that they stay in the cache when `ldconfig` runs in the container later.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use super::hwcap::LegacyHwcaps;
use super::platform::Platform;
use super::rules::Rules;
use super::{CacheReport, LdCacheError, conf};
use crate::confined_fs::{RootDir, RootError};

/// The directory of configuration files next to ld.so.conf, and guest-init's file in it. It comes first, so that the
/// guest's driver takes precedence over one in the image.
const FOLDER: &str = "ld.so.conf.d";
const FILE: &str = "00-gpu-initrd.conf";
/// Maximum size of ld.so.conf in bytes.
const MAX_CONF: u64 = 1024 * 1024;

const HEAD: &str = "# Written by gpu-initrd: the GPU driver, for the next run of ldconfig.\n";

/// Adds `dir`, an absolute path, to ld.so.conf of `root`, in addition to the directories of earlier calls.
///
/// # Errors
/// As [`keep_directories`].
pub fn keep_directory(root: &RootDir, dir: &Path) -> Result<bool, LdCacheError> {
    let platform = Platform::detect(root).unwrap_or_default();
    let old = read(root, &file_of(&platform))?.unwrap_or_default();
    let lines = conf::parse_conf(&old).into_iter();
    let named = lines.filter_map(|line| match line {
        conf::Directive::Directory(dir) => Some(PathBuf::from(OsString::from_vec(dir))),
        _ => None,
    });
    let mut dirs: Vec<PathBuf> = named.filter(|named| named != dir).collect();
    dirs.push(dir.to_owned());
    keep_directories(root, &platform, &dirs)
}

/// Adds these directories, absolute paths, to ld.so.conf of `root` in this order, in place of those of an earlier call. They
/// are in a separate file, included by ld.so.conf; both are written atomically. Returns whether anything changed.
///
/// # Errors
/// [`LdCacheError::Root`] if the configuration cannot be read or written; [`LdCacheError::NoDirectory`] if it cannot
/// contain a path.
pub fn keep_directories<P: AsRef<Path>>(
    root: &RootDir,
    platform: &Platform,
    dirs: &[P],
) -> Result<bool, LdCacheError> {
    let rules = Rules::of(root, platform);
    let file = file_of(platform);
    let old = read(root, &file)?;
    if dirs.is_empty() {
        return old.map_or(Ok(false), |_| root.remove_file(&file).map(|()| true).map_err(Into::into));
    }
    let lines = dirs.iter().map(|dir| line_of(dir.as_ref(), &rules)).collect::<Result<Vec<_>, _>>()?;
    let text = lines.iter().fold(HEAD.to_owned(), |text, line| text + line + "\n");
    root.create_dir_all(file.parent().unwrap_or(Path::new("/")))?;
    let wrote = write(root, &file, text.as_bytes())?;
    let named = search_directories(root, platform);
    if dirs.iter().all(|dir| named.iter().any(|named| named == dir.as_ref())) {
        return Ok(wrote);
    }
    let conf = platform.conf();
    let old = read(root, &conf)?.unwrap_or_default();
    let gap: &[u8] = if old.is_empty() || old.ends_with(b"\n") { b"" } else { b"\n" };
    let include = format!("include {}/*.conf\n", conf.with_file_name(FOLDER).display());
    write(root, &conf, &[old.as_slice(), gap, include.as_bytes()].concat())?;
    Ok(true)
}

/// Returns the library directories of the root: those in ld.so.conf, unchanged, then the built-in ones. They need not
/// exist.
pub fn search_directories(root: &RootDir, platform: &Platform) -> Vec<PathBuf> {
    let rules = Rules::of(root, platform);
    let hwcaps = LegacyHwcaps::of(platform.machine);
    let found = conf::read(root, &platform.conf(), hwcaps, &rules, &mut CacheReport::default());
    let named = found.directories.into_iter().map(|dir| PathBuf::from(dir.path));
    named.chain(platform.system_dirs.iter().cloned()).collect()
}

fn file_of(platform: &Platform) -> PathBuf {
    platform.conf().with_file_name(FOLDER).join(FILE)
}

/// Returns `dir` as a line of ld.so.conf, which has no quoting.
fn line_of(dir: &Path, rules: &Rules) -> Result<String, LdCacheError> {
    let refused = || LdCacheError::NoDirectory { path: dir.to_owned() };
    let text = dir.to_str().filter(|text| text.len() > 1 && text.starts_with('/')).ok_or_else(refused)?;
    let text = text.trim_end_matches('/');
    let unfit = |c: char| c.is_control() || c == '#' || (c == '=' && rules.types);
    if text.is_empty() || text.contains(unfit) || text.trim_end() != text {
        return Err(refused());
    }
    Ok(text.to_owned())
}

fn read(root: &RootDir, path: &Path) -> Result<Option<Vec<u8>>, RootError> {
    match root.read(path, MAX_CONF) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error),
    }
}

fn write(root: &RootDir, path: &Path, bytes: &[u8]) -> Result<bool, RootError> {
    if root.read(path, MAX_CONF).is_ok_and(|old| old == bytes) {
        return Ok(false);
    }
    // ld.so.conf may be a link; its target is read and written.
    let target = root.canonical(path).unwrap_or_else(|_| path.to_owned());
    root.write_atomic(&target, bytes, 0o644)?;
    Ok(true)
}
