//! One pinned artifact.

use super::set::Set;
use serde::{Deserialize, Serialize};
use std::fmt;

/// Most bytes that one archive may unpack to, regardless of the lock.
pub const MAX_UNPACKED: u64 = 8 << 30;

/// Source of an artifact. `TABLE` of `resolve::sources` lists what each source provides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SourceKind {
    /// A Debian or Ubuntu archive, through apt.
    Apt,
    /// A file on a web server.
    Http,
    /// A component of an index in the form of NVIDIA's redistributables.
    Redist,
    /// A file or a directory of this machine.
    File,
    /// The driver that is installed below a root directory.
    Host,
}

impl fmt::Display for SourceKind {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Apt => "apt",
            Self::Http => "http",
            Self::Redist => "redist",
            Self::File => "file",
            Self::Host => "host",
        })
    }
}

/// Who vouches for the digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Digest {
    /// The publisher: a signed archive, an index, a list of checksums, or the profile.
    Publisher,
    /// Nobody: it was computed from the download when the lock was made.
    Recorded,
}

impl fmt::Display for Digest {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Publisher => "publisher",
            Self::Recorded => "recorded",
        })
    }
}

/// One pinned artifact.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Artifact {
    /// Name of the package, or in the profile.
    pub name: String,
    /// Version.
    pub version: String,
    /// Architecture, in the publisher's notation.
    pub arch: String,
    /// Where it comes from.
    pub source: SourceKind,
    /// Address or path; packages have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// Suite that a package was resolved in.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub suite: String,
    /// Size in bytes.
    pub size: u64,
    /// Most bytes that it may unpack to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unpacked: Option<u64>,
    /// SHA-256, lower-case hex.
    pub sha256: String,
    /// Who vouches for it.
    pub digest: Digest,
    /// Paths to unpack; empty: all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub only: Vec<String>,
    /// The sets that it belongs to.
    pub sets: Vec<Set>,
}

impl Artifact {
    /// Its origin in manifests: name and version. Without a signed archive, the digest is part of
    /// the origin, because the publisher may offer another file with the same name and version.
    pub fn origin(&self) -> String {
        match self.source {
            SourceKind::Apt => format!("{} {}", self.name, self.version),
            _ => format!("{} {} sha256:{:.16}", self.name, self.version, self.sha256),
        }
    }

    /// Whether an origin in a manifest is this artifact, or something made from it:
    /// [`Artifact::origin`], `built from NAME`, or `NAME:ARCH VERSION` for packages with 32-bit
    /// libraries, which share name and version with other packages.
    pub fn is_origin(&self, origin: &str) -> bool {
        let compat32 = !self.sets.is_empty() && self.sets.iter().all(|set| matches!(set, Set::Compat32(_)));
        let named =
            if compat32 { format!("{}:{} {}", self.name, self.arch, self.version) } else { self.origin() };
        origin == named || self.is_source_of(origin)
    }

    /// Whether it is the source that something was compiled from.
    pub fn is_source_of(&self, origin: &str) -> bool {
        origin.strip_prefix("built from ") == Some(&self.name)
    }

    /// Most bytes that it may unpack to. Without a value in the lock, a multiple of its size that
    /// no real archive reaches.
    pub fn bound(&self) -> u64 {
        let guess = self.size.saturating_mul(64).saturating_add(64 << 20);
        self.unpacked.unwrap_or(guess).min(MAX_UNPACKED)
    }

    /// Name, version and architecture, which are unique in a lock.
    pub fn key(&self) -> (&str, &str, &str) {
        (&self.name, &self.version, &self.arch)
    }

    /// Key of its unpacked form: the digest, and the unpacked paths.
    pub fn tree_key(&self) -> String {
        if self.only.is_empty() {
            return self.sha256.clone();
        }
        format!("{}-{:.8}", self.sha256, crate::common::digest::sha256(self.only.join("\n").as_bytes()))
    }
}
