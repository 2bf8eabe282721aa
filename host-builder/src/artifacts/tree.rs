//! Unpacked packages, cached by the package's digest, each with an index of its files and their digests.

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

/// Where they are in the cache.
const ROOM: &str = "trees";

/// One unpacked artifact.
#[derive(Debug, Clone)]
pub struct Tree {
    /// Where its files are.
    pub root: PathBuf,
    /// [`Artifact::origin`], for the manifest.
    pub origin: String,
    /// What it is unpacked from and how: the key of what is derived from it.
    pub key: String,
    /// Its regular files, sorted by path.
    pub files: Vec<Unpacked>,
}

impl Tree {
    /// The unpacked form of an artifact that is in the cache.
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

    /// Its file at this path.
    pub fn file(&self, path: &str) -> Result<&Unpacked> {
        self.files.iter().find(|file| file.path == path).ok_or_else(|| {
            Error::new(format!("{} has no file {path}", self.origin))
                .hint("correct the path in the profile: the package has another layout")
        })
    }

    /// The content of a file of it, every byte checked against the index.
    pub fn read(&self, file: &Unpacked) -> Result<Vec<u8>> {
        let path = self.path(file);
        let bytes = plain::read(&path, file.size)?;
        let found = sha256(&bytes);
        if found == file.sha256 {
            return Ok(bytes);
        }
        Err(Error::new(format!("{}: expected sha256 {}, found {found}", path.display(), file.sha256)).hint(
            "remove the cache directory and run again: the cache was altered after the package was unpacked",
        ))
    }

    /// Where a file of it is on this machine.
    pub fn path(&self, file: &Unpacked) -> PathBuf {
        self.root.join(&file.path)
    }
}

/// What is kept of an artifact, or of several, and how it differs from them.
#[derive(Debug)]
pub struct Altered {
    /// Where it is.
    pub dir: PathBuf,
    /// In words, a path each.
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
