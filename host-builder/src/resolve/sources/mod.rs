//! Where artifacts come from: one trait, and one table of what each source gives.

pub mod apt;
pub mod file;
pub mod host;
pub mod http;
pub mod redist;

use crate::artifacts::cache::Cache;
use crate::common::error::{Error, Result};
use crate::common::ui::Ui;
use crate::pins::lock::{Artifact, SourceKind};
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
        let of_kernel = self.artifact.sets.contains(&crate::pins::lock::Set::Kernel);
        self.values.kernel.filter(|_| of_kernel).unwrap_or(self.values.driver)
    }
}

/// What a source gives.
pub struct Gives {
    /// The source.
    pub kind: SourceKind,
    /// How a profile names it.
    pub names: &'static str,
    /// Who vouches for the digest.
    pub digest: &'static str,
    /// Whether a download that was cut off goes on where it ended.
    pub resumes: bool,
    /// Whether it can say which versions there are.
    pub versions: bool,
    /// Whether it needs the network.
    pub network: bool,
}

/// All sources. docs/building.md has the same table.
pub const TABLE: [Gives; 5] = [
    Gives {
        kind: SourceKind::Apt,
        names: "packages of [kernel], [userspace], [firmware], [modules], [toolroot], [vm]",
        digest: "the archive, signed",
        resumes: false,
        versions: true,
        network: true,
    },
    Gives {
        kind: SourceKind::Http,
        names: "url = \"https://…\" or \"http://…\"",
        digest: "`sha256` or `checksums` of the profile, else recorded",
        resumes: true,
        versions: false,
        network: true,
    },
    Gives {
        kind: SourceKind::Redist,
        names: "source = \"redist\", url of redistrib_VERSION.json, component",
        digest: "the index",
        resumes: true,
        versions: false,
        network: true,
    },
    Gives {
        kind: SourceKind::File,
        names: "url = \"a path\", of a file or a directory",
        digest: "`sha256` of the profile, else recorded",
        resumes: false,
        versions: false,
        network: false,
    },
    Gives {
        kind: SourceKind::Host,
        names: "url = \"host:/\", the driver installed there",
        digest: "recorded",
        resumes: false,
        versions: false,
        network: false,
    },
];

/// The row of a source.
pub fn gives(kind: SourceKind) -> &'static Gives {
    TABLE.iter().find(|row| row.kind == kind).expect("every kind has a row")
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_one_row() {
        for kind in
            [SourceKind::Apt, SourceKind::Http, SourceKind::Redist, SourceKind::File, SourceKind::Host]
        {
            assert_eq!(gives(kind).kind, kind);
        }
        assert_eq!(TABLE.len(), 5);
    }
}
