//! NVIDIA's open modules in a profile: where their source is, and what is changed in it.

use serde::Deserialize;
use std::collections::BTreeMap;

/// Placeholder of the driver's version in names of packages and paths.
pub const DRIVER: &str = "{driver}";

/// NVIDIA's open modules: from source, or prebuilt in an artifact.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Modules {
    /// Package with the source archive; `None` for prebuilt modules.
    pub package: Option<String>,
    /// The archive in the package; `None` if the package has the source as plain files.
    pub archive: Option<String>,
    /// The source tree in the archive; `{driver}` is the driver's version.
    pub subdir: Option<String>,
    /// Modules in load order.
    pub load: Vec<String>,
    /// Parameters by module.
    #[serde(default)]
    pub parameters: BTreeMap<String, String>,
    /// Changes that the source needs for some kernels.
    #[serde(default)]
    pub patch: Vec<Patch>,
}

/// A replacement in a source file that is applied if a kernel header matches.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Patch {
    /// File in the source tree.
    pub file: String,
    /// Text that must occur exactly once.
    pub find: String,
    /// Its replacement.
    pub replace: String,
    /// Header of the kernel, relative to its source.
    pub header: String,
    /// Regular expression. The patch is applied if the header matches.
    pub header_matches: String,
}

/// Location of the source of modules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModuleSource<'a> {
    /// Its package.
    pub package: &'a str,
    /// The archive in it, if the source is not in plain files.
    pub archive: Option<&'a str>,
    /// The source tree in that.
    pub subdir: String,
}

/// Replaces the placeholder of the driver's version in a package name or path.
pub fn with_driver(text: &str, driver: &str) -> String {
    text.replace(DRIVER, driver)
}

impl Modules {
    /// Location of the source for a driver; `None` for prebuilt modules.
    pub fn source(&self, driver: &str) -> Option<ModuleSource<'_>> {
        Some(ModuleSource {
            package: self.package.as_deref()?,
            archive: self.archive.as_deref(),
            subdir: with_driver(self.subdir.as_deref()?, driver),
        })
    }
}
