//! The cache in the user's cache directory: artifacts by their digest, and everything derived from
//! them by the digest of its inputs. Entries are complete or absent: they are created under a
//! temporary name, then renamed.

use crate::common::digest::sha256_file;
use crate::common::error::{Doing, Error, Result};
use crate::common::files::{Scratch, set_mode};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// Minimum age at which an entry may be removed, so that the process that created it can still use
/// it.
const SETTLED: std::time::Duration = std::time::Duration::from_hours(1);

/// The cache directory and its rooms.
#[derive(Debug, Clone)]
pub struct Cache {
    root: PathBuf,
}

impl Cache {
    /// `$GPU_INITRD_CACHE`, else `$XDG_CACHE_HOME/gpu-initrd`, else `~/.cache/gpu-initrd`.
    pub fn open() -> Result<Self> {
        let variable =
            |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let root = variable("GPU_INITRD_CACHE")
            .or_else(|| variable("XDG_CACHE_HOME").map(|dir| dir.join("gpu-initrd")))
            .or_else(|| variable("HOME").map(|home| home.join(".cache/gpu-initrd")))
            .ok_or_else(|| {
                Error::new("no cache directory: HOME is not set").hint("set GPU_INITRD_CACHE to a directory")
            })?;
        Self::at(&root)
    }

    /// Opens a cache in the given directory.
    pub fn at(root: &Path) -> Result<Self> {
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true).mode(0o700).create(root).doing("creating the cache directory", root)?;
        let root = root.canonicalize().doing("resolving", root)?;
        own(&root)?;
        Ok(Self { root })
    }

    /// Returns a directory of the cache. Creates it if it does not exist.
    pub fn room(&self, name: &str) -> Result<PathBuf> {
        let path = self.root.join(name);
        fs::create_dir_all(&path).doing("creating", &path)?;
        Ok(path)
    }

    /// Path of the artifact with this digest, whether it exists or not.
    pub fn blob(&self, sha256: &str) -> Result<PathBuf> {
        Ok(self.room("blobs/sha256")?.join(sha256))
    }

    /// Whether the artifact with this digest is in the cache. An artifact of the wrong size is
    /// removed as damaged.
    pub fn has_blob(&self, sha256: &str, size: u64) -> Result<bool> {
        let path = self.blob(sha256)?;
        let Ok(metadata) = fs::metadata(&path) else { return Ok(false) };
        if metadata.len() == size {
            return Ok(true);
        }
        fs::remove_file(&path).doing("removing a damaged artifact", &path)?;
        Ok(false)
    }

    /// Returns the artifact with this digest after checking its content. Removes it if it is
    /// damaged.
    pub fn verified_blob(&self, sha256: &str) -> Result<PathBuf> {
        let path = self.blob(sha256)?;
        let found = sha256_file(&path)?;
        if found == sha256 {
            return Ok(path);
        }
        fs::remove_file(&path).doing("removing a damaged artifact", &path)?;
        Err(Error::new(format!("{}: expected sha256 {sha256}, found {found}", path.display()))
            .hint("run the command again to fetch the artifact; the damaged one was removed"))
    }

    /// Returns the directory derived from inputs with digest `key`. Creates it with `make` if it
    /// does not exist. Processes that need the same directory wait for each other.
    pub fn derived(&self, room: &str, key: &str, make: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
        self.derived_checked(room, key, |dir| {
            make(dir)?;
            // The content must reach the disk before the name.
            let directory = File::open(dir).doing("opening", dir)?;
            nix::unistd::syncfs(&directory).map_err(io::Error::from).doing("writing", dir)
        })
    }

    /// Returns an existing directory of [`Self::derived`].
    pub fn kept(&self, room: &str, key: &str) -> Result<Option<PathBuf>> {
        let path = self.room(room)?.join(key);
        Ok(path.exists().then_some(path))
    }

    /// [`Self::derived`] without waiting for the disk, for directories that are checked at each
    /// use.
    pub fn derived_checked(
        &self,
        room: &str,
        key: &str,
        make: impl FnOnce(&Path) -> Result<()>,
    ) -> Result<PathBuf> {
        let parent = self.room(room)?;
        let path = parent.join(key);
        if is_in_use(&path) {
            return Ok(path);
        }
        let _lock = self.lock(&format!("{room}-{key}").replace('/', "-"))?;
        if is_in_use(&path) {
            return Ok(path);
        }
        let temporary = Scratch::new(&parent)?;
        make(temporary.path())?;
        set_mode(temporary.path(), 0o755)?;
        fs::rename(temporary.path(), &path).doing("renaming into the cache", &path)?;
        Ok(path)
    }

    /// Removes all entries of a room except those used last, and those that another process may be
    /// using.
    pub fn forget(&self, room: &str, keep: usize) -> Result<()> {
        let room = self.room(room)?;
        let mut entries = Vec::new();
        for entry in fs::read_dir(&room).doing("reading", &room)? {
            let path = entry.doing("reading", &room)?.path();
            // Another process has removed it.
            let Ok(used) = fs::metadata(&path).and_then(|metadata| metadata.modified()) else { continue };
            entries.push((used, path));
        }
        entries.sort();
        for (used, path) in entries.iter().rev().skip(keep) {
            if used.elapsed().is_ok_and(|age| age > SETTLED) {
                let _ = fs::remove_dir_all(path);
            }
        }
        Ok(())
    }

    /// Creates a directory for work in progress. It is removed on drop and on an interrupt.
    pub fn scratch(&self) -> Result<Scratch> {
        Scratch::new(&self.room("work")?)
    }

    /// An exclusive lock, held until dropped.
    pub fn lock(&self, name: &str) -> Result<File> {
        let path = self.room("locks")?.join(name);
        let file = File::create(&path).doing("creating", &path)?;
        file.lock().doing("locking", &path)?;
        Ok(file)
    }
}

/// Checks that only the user can write to the cache, because its content is built into images.
fn own(root: &Path) -> Result<()> {
    let metadata = fs::metadata(root).doing("reading", root)?;
    let user = nix::unistd::geteuid().as_raw();
    let refused = |what: String| {
        let place = root.display();
        let remedy = format!(
            "use a directory of your own: GPU_INITRD_CACHE=DIR; or remove the cache (everything in it is created again); or, if no other user has written to it: chmod 700 {place}"
        );
        Err(Error::new(format!("the cache {place} cannot be trusted: {what}")).hint(remedy))
    };
    if metadata.uid() != user {
        return refused(format!("expected user {user} as its owner, found {}", metadata.uid()));
    }
    match metadata.mode() & 0o777 {
        0o700 => Ok(()),
        mode if mode & 0o022 != 0 => refused(format!("others may write to it (mode {mode:04o})")),
        _ => set_mode(root, 0o700),
    }
}

/// Whether an entry exists. Updates its time of use, so that [`Cache::forget`] of another process
/// keeps it.
fn is_in_use(path: &Path) -> bool {
    let Ok(directory) = File::open(path) else { return false };
    // A cache on a read-only file system is not cleaned up either.
    let _ = directory.set_modified(SystemTime::now());
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cache() -> (tempfile::TempDir, Cache) {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::at(&dir.path().join("c")).unwrap();
        (dir, cache)
    }

    #[test]
    fn cache_is_refused_if_others_can_write_to_it() {
        let (_dir, cache) = cache();
        let mode = || fs::metadata(&cache.root).unwrap().mode() & 0o777;
        assert_eq!(mode(), 0o700);
        set_mode(&cache.root, 0o755).unwrap();
        Cache::at(&cache.root).unwrap();
        assert_eq!(mode(), 0o700);
        for open in [0o777, 0o770, 0o702] {
            set_mode(&cache.root, open).unwrap();
            let error = Cache::at(&cache.root).unwrap_err();
            assert!(error.to_string().contains("others may write") && error.remedy().is_some(), "{error}");
        }
        if nix::unistd::geteuid().is_root() {
            set_mode(&cache.root, 0o700).unwrap();
            std::os::unix::fs::chown(&cache.root, Some(1234), None).unwrap();
            assert!(Cache::at(&cache.root).unwrap_err().to_string().contains("found 1234"));
        }
    }

    #[test]
    fn entries_used_last_are_kept() {
        let (_dir, cache) = cache();
        let room = cache.room("room").unwrap();
        for name in ["a", "b", "c"] {
            let path = cache.derived("room", name, |_| Ok(())).unwrap();
            File::open(path).unwrap().set_modified(SystemTime::now() - 3 * SETTLED).unwrap();
        }
        cache.derived("room", "a", |_| panic!("it is there")).unwrap();
        cache.forget("room", 0).unwrap();
        let left: Vec<_> = fs::read_dir(room).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["a"]);
    }

    #[test]
    fn derived_entry_is_created_once() {
        let (_dir, cache) = cache();
        let mut made = 0;
        for _ in 0..2 {
            let path = cache
                .derived("room", "key", |dir| {
                    made += 1;
                    fs::write(dir.join("x"), "y").doing("writing", dir)
                })
                .unwrap();
            assert_eq!(fs::read(path.join("x")).unwrap(), b"y");
        }
        assert_eq!(made, 1);
    }

    #[test]
    fn failed_entry_leaves_nothing() {
        let (_dir, cache) = cache();
        let result = cache.derived("room", "key", |dir| {
            fs::write(dir.join("x"), "y").unwrap();
            Err(Error::new("no"))
        });
        assert!(result.is_err());
        assert_eq!(fs::read_dir(cache.room("room").unwrap()).unwrap().count(), 0);
    }

    #[test]
    fn damaged_blob_is_removed() {
        let (_dir, cache) = cache();
        let path = cache.blob("aa").unwrap();
        fs::write(&path, "short").unwrap();
        assert!(!cache.has_blob("aa", 9).unwrap());
        assert!(!path.exists());
        fs::write(&path, "other").unwrap();
        assert!(cache.has_blob("aa", 5).unwrap());
        assert!(cache.verified_blob("aa").unwrap_err().to_string().contains("expected sha256 aa, found"));
        assert!(!path.exists());
    }
}
