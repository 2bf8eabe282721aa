//! The sources of artifacts: a trait, and a table of what each source provides.

pub mod apt;
pub mod file;
pub mod host;
pub mod http;
pub mod redist;
mod source;

pub use self::source::{Access, Offer, Source, WantedArtifact, check};

use crate::pins::lock::SourceKind;

/// What a source provides.
pub struct Gives {
    /// The source.
    pub kind: SourceKind,
    /// How a profile names its artifacts.
    pub names: &'static str,
    /// Who vouches for the digest.
    pub digest: &'static str,
    /// Whether an interrupted download is resumed.
    pub resumes: bool,
    /// Whether it can list versions.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_source_has_one_row() {
        for kind in
            [SourceKind::Apt, SourceKind::Http, SourceKind::Redist, SourceKind::File, SourceKind::Host]
        {
            assert_eq!(gives(kind).kind, kind);
        }
        assert_eq!(TABLE.len(), 5);
    }
}
