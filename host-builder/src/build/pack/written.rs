//! Remembers which image an output file has, so that a build with the same result need neither write nor read it.

use super::Packed;
use crate::artifacts::cache::Cache;
use crate::artifacts::tree::{read_json, write_json};
use crate::common::digest::sha256;
use crate::common::error::{Doing, Result};
use serde::{Deserialize, Serialize};
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// The cache directory for what was written, by the state of the file.
const ROOM: &str = "written";
const ABOUT: &str = "about.json";
/// Number of files that are remembered.
const KEPT: usize = 32;

/// The image in a file.
#[derive(Serialize, Deserialize)]
struct About {
    /// Key of its segments.
    key: String,
    sha256: String,
}

/// Returns what was written to `path`, if it was the image with this key, of `bytes`, and nobody has changed the file since.
pub(super) fn before(path: &Path, key: &str, bytes: u64, cache: &Cache) -> Result<Option<Packed>> {
    let Ok(state) = state(path) else { return Ok(None) };
    let Some(kept) = cache.kept(ROOM, &state)? else { return Ok(None) };
    let about = read_json::<About>(&kept.join(ABOUT)).ok().filter(|about| about.key == key);
    Ok(about.map(|about| Packed { bytes, sha256: about.sha256, key: about.key }))
}

/// Remembers that `path` has this image.
pub(super) fn remember(path: &Path, packed: &Packed, cache: &Cache) -> Result<()> {
    let state = state(path).doing("reading", path)?;
    let about = About { key: packed.key.clone(), sha256: packed.sha256.clone() };
    cache.derived_checked(ROOM, &state, |dir| write_json(&dir.join(ABOUT), &about))?;
    cache.forget(ROOM, KEPT)
}

/// What changes with each change of a file: the kernel sets the time of the change itself.
fn state(path: &Path) -> io::Result<String> {
    let path = fs::canonicalize(path)?;
    let stat = fs::symlink_metadata(&path)?;
    let (modified, changed) = ((stat.mtime(), stat.mtime_nsec()), (stat.ctime(), stat.ctime_nsec()));
    let path = path.display();
    let text = format!("{path} {} {} {} {modified:?} {changed:?}", stat.dev(), stat.ino(), stat.len());
    Ok(sha256(text.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_was_changed_is_not_remembered() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::at(&dir.path().join("cache")).unwrap();
        let path = dir.path().join("initrd");
        let is_known = |key: &str| before(&path, key, 3, &cache).unwrap().map(|packed| packed.sha256);
        assert_eq!(is_known("k"), None, "there is no file");
        fs::write(&path, "one").unwrap();
        assert_eq!(is_known("k"), None);
        remember(&path, &Packed { bytes: 3, sha256: "aa".into(), key: "k".into() }, &cache).unwrap();
        assert_eq!(is_known("k").as_deref(), Some("aa"));
        assert_eq!(is_known("other"), None);
        // The same size and time of change, but not the kernel's, whose clock ticks every ten milliseconds at least.
        std::thread::sleep(std::time::Duration::from_millis(20));
        let time = fs::metadata(&path).unwrap().modified().unwrap();
        fs::write(&path, "two").unwrap();
        fs::File::options().write(true).open(&path).unwrap().set_modified(time).unwrap();
        assert_eq!(is_known("k"), None);
    }
}
