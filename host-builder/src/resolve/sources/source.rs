//! What every source does, and what it is given to do it.

use crate::artifacts::cache::Cache;
use crate::common::error::{Error, Result};
use crate::common::ui::Ui;
use crate::pins::lock::{Artifact, Set, SourceKind};
use crate::pins::profile;
use std::path::Path;

/// Where artifacts come from.
pub trait Source {
    /// What is asked for, in the words of the profile.
    type Query<'a>;

    /// What is offered for it: name, version, size, digest. What no publisher gives a digest for is fetched to get one.
    fn resolve(&self, wanted: Self::Query<'_>) -> Result<Vec<Artifact>>;

    /// Gets artifacts into the cache, every byte checked against the lock.
    fn fetch(&self, artifacts: &[&Artifact]) -> Result<()>;

    /// Whether each of them is still there, in their order. A source that cannot ask without getting them gets them.
    fn offers(&self, artifacts: &[&Artifact]) -> Result<Vec<Offer>> {
        let one = |artifact: &&Artifact| match self.fetch(&[artifact]) {
            Ok(()) => Offer::Yes,
            Err(error) => Offer::No(error.chain()),
        };
        Ok(artifacts.iter().map(one).collect())
    }
}

/// Whether a source still has an artifact.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Offer {
    /// It has, as far as can be told without fetching it.
    Yes,
    /// It has not, and why.
    No(String),
}

/// What a source needs beside what is asked of it.
#[derive(Clone, Copy)]
pub struct Access<'a> {
    /// Where everything goes.
    pub cache: &'a Cache,
    /// Who is told.
    pub ui: &'a Ui,
    /// No socket is opened.
    pub offline: bool,
    /// A directory that `pins vendor` filled.
    pub mirror: Option<&'a Path>,
}

impl<'a> Access<'a> {
    /// Everything is allowed.
    pub fn new(cache: &'a Cache, ui: &'a Ui) -> Self {
        Self { cache, ui, offline: false, mirror: None }
    }

    /// Fails where the network may not be used.
    pub fn online(&self, what: &str) -> Result<()> {
        if !self.offline {
            return Ok(());
        }
        Err(Error::new(format!("{what} needs the network, and --offline forbids it"))
            .hint("run it once without --offline; `pins vendor DIR` fills a directory for --mirror"))
    }
}

/// An artifact of the profile, with what its placeholders stand for.
#[derive(Clone, Copy)]
pub struct WantedArtifact<'a> {
    /// The artifact.
    pub artifact: &'a profile::Artifact,
    /// What placeholders stand for.
    pub values: profile::Values<'a>,
}

impl WantedArtifact<'_> {
    /// Its address.
    pub fn url(&self) -> Result<String> {
        self.artifact.expand(&self.artifact.url, self.values)
    }

    /// The version that a lock gives it: what tells one from the next.
    pub fn version(&self) -> &str {
        let of_kernel = self.artifact.sets.contains(&Set::Kernel);
        self.values.kernel.filter(|_| of_kernel).unwrap_or(self.values.driver)
    }
}

/// Fails when what came is not what the lock says.
pub fn check(artifact: &Artifact, size: u64, sha256: &str) -> Result<()> {
    let named = format!("{} {}", artifact.name, artifact.version);
    if size != artifact.size {
        return Err(Error::new(format!(
            "{named}: expected {} bytes, found {size}: the download is not the {} that was locked",
            artifact.size,
            if artifact.source == SourceKind::Apt { "package" } else { "artifact" }
        ))
        .hint("try again; if it stays so, resolve again: build-initrd --update-lock"));
    }
    if sha256 == artifact.sha256 {
        return Ok(());
    }
    Err(Error::new(format!("{named}: expected sha256 {}, found {sha256}", artifact.sha256)).hint(
        "the lock or the source was altered: compare the lock with its history, or resolve again: build-initrd --update-lock",
    ))
}
