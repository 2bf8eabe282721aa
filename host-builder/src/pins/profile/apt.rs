//! The package archive of a profile.

use serde::Deserialize;

/// An archive and its suites.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Apt {
    /// Suite.
    pub suite: String,
    /// Components.
    pub components: Vec<String>,
    /// The distribution whose archive is used from the machine's sources, if there is no `uri`.
    #[serde(default)]
    pub distribution: Distribution,
    /// Archive; default: the machine's own, or one beside it on the same mirror.
    pub uri: Option<String>,
    /// The distribution's own address, for machines whose mirror does not have this archive.
    pub public: Option<String>,
    /// Key ring of the archive; default: the keys that apt trusts.
    pub signed_by: Option<String>,
    /// Suites that `suite` extends, for packages that it lacks: `noble` for Ubuntu's
    /// `noble-updates`.
    #[serde(default)]
    pub base_suites: Vec<String>,
    /// More suites in which `pins update --driver` searches for other versions of the driver.
    #[serde(default)]
    pub more_suites: Vec<String>,
}

/// The distribution of the packages.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Distribution {
    /// Debian's.
    #[default]
    Debian,
    /// Ubuntu's.
    Ubuntu,
}

impl Distribution {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Debian, Self::Ubuntu];

    /// The package with its keys, which other distributions have, too.
    pub fn keyring(self) -> &'static str {
        match self {
            Self::Debian => "debian-archive-keyring",
            Self::Ubuntu => "ubuntu-keyring",
        }
    }

    /// The end of its archives' addresses.
    pub fn word(self) -> &'static str {
        match self {
            Self::Debian => "debian",
            Self::Ubuntu => "ubuntu",
        }
    }
}

impl std::fmt::Display for Distribution {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.write_str(match self {
            Self::Debian => "Debian",
            Self::Ubuntu => "Ubuntu",
        })
    }
}
