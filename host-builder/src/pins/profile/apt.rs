//! The package archive of a profile.

use serde::Deserialize;

/// An archive, and the suites of it.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Apt {
    /// Suite.
    pub suite: String,
    /// Components.
    pub components: Vec<String>,
    /// Whose archive of the machine's own is meant, where there is no `uri`.
    #[serde(default)]
    pub distribution: Distribution,
    /// Archive; default: the machine's own.
    pub uri: Option<String>,
    /// Key ring that signs it; default: those that apt trusts.
    pub signed_by: Option<String>,
    /// Suites that `suite` is an addition to, and that packages which it lacks come from: Ubuntu's `noble` beside
    /// `noble-updates`.
    #[serde(default)]
    pub base_suites: Vec<String>,
    /// More suites, in which `pins update --driver` looks for other versions of the driver.
    #[serde(default)]
    pub more_suites: Vec<String>,
}

/// Whose packages they are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Distribution {
    /// Debian's.
    #[default]
    Debian,
    /// Ubuntu's.
    Ubuntu,
}

impl Distribution {
    /// What its archives' addresses end with.
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
