//! What an injection did.

use std::path::Path;

use image::status::Finding;
use serde::Serialize;

use super::notice::Notice;
use crate::ldcache::{CacheReport, Via};

/// Kind of an injected name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ItemKind {
    /// A file of the driver.
    File,
    /// A link that the driver files need.
    Link,
}

/// One name added to the container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Item {
    /// Path in the container.
    pub path: String,
    /// What it is.
    pub kind: ItemKind,
    /// For a file its path in the driver directory, for a link its target.
    pub target: String,
    /// SONAME of a library.
    pub soname: Option<String>,
}

/// Which file the container's loader opens for a name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Resolution {
    /// The requested name.
    pub soname: String,
    /// The path that the loader opens; `None` if it finds none.
    pub path: Option<String>,
    /// The file behind it.
    pub file: Option<String>,
    /// The driver version in the name of that file.
    pub version: Option<String>,
    /// How the loader finds it.
    pub via: Option<Via>,
    /// Whether it is the expected file: an injected one, or one of the selected compatibility libraries. Otherwise the
    /// container has its own driver.
    pub expected: bool,
}

/// Report of an injection. Names are text, in which invalid UTF-8 is replaced, since the report is sent as JSON.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct InjectReport {
    /// Version of the driver.
    pub version: Option<String>,
    /// What loads the container's libraries: `glibc 2.36`, `musl with gcompat`, `store of Nix or Guix`; `musl` or `none` if
    /// nothing can load the driver's libraries.
    pub libc: String,
    /// Directory of the container's libraries.
    pub lib_dir: String,
    /// Whether the container has a store of Nix or Guix, and so needs the link [`RUN_LINK`](super::RUN_LINK).
    pub store: bool,
    /// Everything that the container receives, whether created or present already.
    pub items: Vec<Item>,
    /// Hidden driver files of the image.
    pub masked: Vec<String>,
    /// Files of an earlier driver that were removed.
    pub removed: Vec<String>,
    /// Directory of the CUDA compatibility libraries that are used.
    pub compat_dir: Option<String>,
    /// Number of names created or changed. 0 if everything was in place.
    pub changed: usize,
    /// The loader cache, after [`complete`](super::complete).
    pub cache: Option<CacheReport>,
    /// What the loader finds, after [`complete`](super::complete).
    pub resolved: Vec<Resolution>,
    /// What the operator should know.
    #[serde(skip)]
    pub notices: Vec<Notice>,
    /// What was skipped, and why.
    pub warnings: Vec<String>,
}

impl InjectReport {
    /// Returns the notices as findings.
    pub fn findings(&self) -> Vec<Finding> {
        self.notices.iter().cloned().map(Finding::from).collect()
    }
}

/// Returns a path as text for a report.
pub(super) fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}
