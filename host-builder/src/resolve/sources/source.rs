//! The trait of all sources, and their common input.

use super::apt::NamedArchive;
use crate::artifacts::cache::Cache;
use crate::common::error::{Error, Result};
use crate::common::ui::Ui;
use crate::pins::lock::{Artifact, Set, SourceKind};
use crate::pins::profile;
use std::path::Path;

/// A source of artifacts.
pub trait Source {
    /// What to resolve.
    type Query<'a>;

    /// Returns the lock entries: name, version, size, digest. An artifact without a published
    /// digest is fetched to compute one.
    fn resolve(&self, wanted: Self::Query<'_>) -> Result<Vec<Artifact>>;

    /// Fetches artifacts into the cache. Every byte is checked against the lock.
    fn fetch(&self, artifacts: &[&Artifact]) -> Result<()>;

    /// Whether each artifact is still offered, in the same order. A source that cannot ask fetches
    /// instead.
    fn offers(&self, artifacts: &[&Artifact]) -> Result<Vec<Offer>> {
        let one = |artifact: &&Artifact| match self.fetch(&[artifact]) {
            Ok(()) => Offer::Yes,
            Err(error) => Offer::No(error.chain()),
        };
        Ok(artifacts.iter().map(one).collect())
    }
}

/// Whether a source still offers an artifact.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Offer {
    /// It does, as far as is known without fetching it.
    Yes,
    /// It does not, for this reason.
    No(String),
}

/// What all sources need.
#[derive(Clone, Copy)]
pub struct Access<'a> {
    /// The cache to fetch into.
    pub cache: &'a Cache,
    /// Where progress is shown.
    pub ui: &'a Ui,
    /// Whether the network must not be used.
    pub offline: bool,
    /// A directory that `pins vendor` filled.
    pub mirror: Option<&'a Path>,
    /// Archives that the user has named.
    pub archives: &'a [NamedArchive],
}

impl<'a> Access<'a> {
    /// Without restrictions.
    pub fn new(cache: &'a Cache, ui: &'a Ui) -> Self {
        Self { cache, ui, offline: false, mirror: None, archives: &[] }
    }

    /// Fails if the network must not be used.
    pub fn online(&self, what: &str) -> Result<()> {
        if !self.offline {
            return Ok(());
        }
        Err(Error::new(format!("{what} needs the network, and --offline forbids it"))
            .hint("run it once without --offline; or fill a directory for --mirror with `pins vendor DIR`"))
    }
}

/// An artifact of the profile, with the values of its placeholders.
#[derive(Clone, Copy)]
pub struct WantedArtifact<'a> {
    /// The artifact.
    pub artifact: &'a profile::Artifact,
    /// The values of placeholders.
    pub values: profile::Values<'a>,
}

impl WantedArtifact<'_> {
    /// Its address.
    pub fn url(&self) -> Result<String> {
        self.artifact.expand(&self.artifact.url, self.values)
    }

    /// Its version in the lock: the kernel's for artifacts of the kernel, else the driver's.
    pub fn version(&self) -> &str {
        let of_kernel = self.artifact.sets.contains(&Set::Kernel);
        self.values.kernel.filter(|_| of_kernel).unwrap_or(self.values.driver)
    }
}

/// Fails if a download does not match the lock.
pub fn check(artifact: &Artifact, size: u64, sha256: &str) -> Result<()> {
    let named = format!("{} {}", artifact.name, artifact.version);
    if size != artifact.size {
        return Err(Error::new(format!(
            "{named}: expected {} bytes, found {size}: the download is not the {} that was locked",
            artifact.size,
            if artifact.source == SourceKind::Apt { "package" } else { "artifact" }
        ))
        .hint("try again; if the error remains, resolve again: build-initrd --update-lock"));
    }
    if sha256 == artifact.sha256 {
        return Ok(());
    }
    Err(Error::new(format!("{named}: expected sha256 {}, found {sha256}", artifact.sha256)).hint(
        "the lock or the source was altered: compare the lock with its history, or resolve again: build-initrd --update-lock",
    ))
}
