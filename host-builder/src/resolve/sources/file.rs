//! Files and directories of this machine.

use super::source::{Access, Source, WantedArtifact, check};
use crate::artifacts::directory;
use crate::artifacts::tree::Tree;
use crate::common::digest::sha256_file;
use crate::common::error::{Doing, Error, Result};
use crate::common::files::Staged;
use crate::pins::lock::{Artifact, Digest, SourceKind};
use std::fs::{self, File};
use std::io;
use std::path::Path;

/// Files and directories as sources.
pub struct FileSource<'a> {
    access: Access<'a>,
    /// The base of relative paths: the profile's directory.
    directory: &'a Path,
}

impl<'a> FileSource<'a> {
    /// Relative paths start at `directory`.
    pub fn new(access: Access<'a>, directory: &'a Path) -> Self {
        Self { access, directory }
    }

    /// Copies a file into the cache unchanged, a directory as an archive.
    fn take(&self, url: &str) -> Result<(u64, String)> {
        let path = self.directory.join(url);
        let metadata = fs::metadata(&path).doing("looking for", &path)?;
        if metadata.is_dir() {
            return store(self.access, |out, place| directory::pack(&directory::below(&path)?, out, place));
        }
        store(self.access, |out, _| {
            let mut file = File::open(&path).doing("opening", &path)?;
            io::copy(&mut file, out).doing("copying", &path).map(drop)
        })
    }
}

/// Stores what `fill` writes in the cache, under its digest.
pub fn store(access: Access, fill: impl FnOnce(&mut File, &Path) -> Result<()>) -> Result<(u64, String)> {
    let scratch = access.cache.scratch()?;
    let path = scratch.path().join("blob");
    Staged::new(&path, 0o644, |out| fill(out, &path))?.commit()?;
    let (size, sha256) = (fs::metadata(&path).doing("reading", &path)?.len(), sha256_file(&path)?);
    fs::rename(&path, access.cache.blob(&sha256)?).doing("moving into the cache", &path)?;
    Ok((size, sha256))
}

/// The lock entry of a local artifact.
pub fn pinned(
    access: Access,
    wanted: &WantedArtifact,
    kind: SourceKind,
    url: String,
    found: (u64, String),
) -> Result<Artifact> {
    let stated = wanted.artifact.sha256.as_ref();
    if let Some(digest) = stated.filter(|digest| **digest != found.1) {
        return Err(Error::new(format!("{url}: expected sha256 {digest}, found {}", found.1))
            .hint("this is not the file of the profile: check the path and the digest"));
    }
    let mut artifact = Artifact {
        name: wanted.artifact.name.clone(),
        version: wanted.version().into(),
        arch: wanted.values.arch.into(),
        source: kind,
        url: Some(url),
        suite: String::new(),
        size: found.0,
        unpacked: wanted.artifact.max_unpacked,
        sha256: found.1,
        digest: if stated.is_some() { Digest::Publisher } else { Digest::Recorded },
        only: wanted.artifact.only.clone(),
        sets: Vec::new(),
    };
    let tree = Tree::of(access.cache, &artifact)?;
    artifact.unpacked = Some(tree.files.iter().map(|file| file.size).sum());
    Ok(artifact)
}

impl Source for FileSource<'_> {
    type Query<'w> = Vec<WantedArtifact<'w>>;

    fn resolve(&self, wanted: Vec<WantedArtifact>) -> Result<Vec<Artifact>> {
        let one = |wanted: &WantedArtifact| {
            let url = wanted.url()?;
            let found = self.take(&url)?;
            pinned(self.access, wanted, SourceKind::File, url, found)
        };
        wanted.iter().map(one).collect()
    }

    fn fetch(&self, artifacts: &[&Artifact]) -> Result<()> {
        artifacts.iter().try_for_each(|artifact| {
            let (size, sha256) = self.take(artifact.url.as_deref().unwrap_or_default())?;
            check(artifact, size, &sha256)
        })
    }
}
