//! Unpacked packages, cached by the package's digest, each with an index of its files and their
//! digests.

use super::cache::Cache;
use super::compare::differences;
use super::unpack::{Unpacked, Unpacker};
use crate::common::digest::sha256;
use crate::common::error::{Doing, Error, Result};
use crate::common::files::write_atomically;
use crate::common::plain;
use crate::pins::lock::Artifact;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

/// The cache directory for trees.
const ROOM: &str = "trees";

/// One unpacked artifact.
#[derive(Debug, Clone)]
pub struct Tree {
    /// The directory with its files.
    pub root: PathBuf,
    /// [`Artifact::origin`], for the manifest.
    pub origin: String,
    /// Key of its inputs, for what is derived from it.
    pub key: String,
    /// Its regular files, sorted by path.
    pub files: Vec<Unpacked>,
}

impl Tree {
    /// Unpacks an artifact that is in the cache.
    pub fn of(cache: &Cache, artifact: &Artifact) -> Result<Self> {
        let key = artifact.tree_key();
        let dir = cache.derived(ROOM, &key, |dir| unpack(cache, artifact, dir))?;
        let files = read_json(&dir.join("index.json"))?;
        Ok(Self { root: dir.join("files"), origin: artifact.origin(), key, files })
    }

    /// How the unpacked copy of an artifact differs from the artifact; `None` if there is no copy.
    pub fn altered(cache: &Cache, artifact: &Artifact) -> Result<Option<Altered>> {
        let Some(dir) = cache.kept(ROOM, &artifact.tree_key())? else { return Ok(None) };
        let fresh = cache.scratch()?;
        unpack(cache, artifact, fresh.path())?;
        let differences = differences(fresh.path(), &dir)?;
        Ok(Some(Altered { dir, differences }))
    }

    /// The file at this path.
    pub fn file(&self, path: &str) -> Result<&Unpacked> {
        self.files.iter().find(|file| file.path == path).ok_or_else(|| {
            Error::new(format!("{} has no file {path}", self.origin))
                .hint("correct the path in the profile: the package has another layout")
        })
    }

    /// Reads a file, and checks every byte against the index.
    pub fn read(&self, file: &Unpacked) -> Result<Vec<u8>> {
        let path = self.path(file);
        let bytes = plain::read(&path, file.size)?;
        let found = sha256(&bytes);
        if found == file.sha256 {
            return Ok(bytes);
        }
        Err(Error::new(format!("{}: expected sha256 {}, found {found}", path.display(), file.sha256)).hint(
            "the cache was changed after the package was unpacked: remove the cache directory and run again",
        ))
    }

    /// Path of a file on this machine.
    pub fn path(&self, file: &Unpacked) -> PathBuf {
        self.root.join(&file.path)
    }
}

/// An unpacked copy, and how it differs from its packages.
#[derive(Debug)]
pub struct Altered {
    /// Its directory.
    pub dir: PathBuf,
    /// The differences in words, one per path.
    pub differences: Vec<String>,
}

fn unpack(cache: &Cache, artifact: &Artifact, dir: &Path) -> Result<()> {
    let root = dir.join("files");
    fs::create_dir(&root).doing("creating", &root)?;
    let mut unpacker = Unpacker::new(&root).bound(artifact.bound()).only(&artifact.only);
    unpacker.file(&cache.verified_blob(&artifact.sha256)?, &artifact.name)?;
    write_json(&dir.join("index.json"), &unpacker.finish())
}

/// Writes a value as JSON atomically.
pub fn write_json(path: &Path, value: &impl serde::Serialize) -> Result<()> {
    let bytes = serde_json::to_vec(value).map_err(|error| Error::new("encoding JSON").source(error))?;
    write_atomically(path, 0o644, |file| file.write_all(&bytes).doing("writing", path))
}

/// Reads a value that [`write_json`] wrote into the cache.
pub fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T> {
    let bytes = fs::read(path).doing("reading", path)?;
    serde_json::from_slice(&bytes).map_err(|error| {
        Error::new(format!("{} is damaged", path.display()))
            .source(error)
            .hint(format!("remove {} and run again", path.parent().unwrap_or(path).display()))
    })
}
