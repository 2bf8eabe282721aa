//! What can be wrong, under names that stay: each with its proof and its remedy.

pub use crate::code::{CODES, Code, Explanation};
use serde::{Deserialize, Serialize};

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// Worth knowing.
    Info,
    /// Something will not work.
    Warning,
    /// The boot, or the GPU, failed.
    Error,
}

/// The name under which a variant without fields stands in JSON, and everywhere else.
pub fn name(variant: impl Serialize) -> String {
    serde_json::to_value(variant).ok().and_then(|json| json.as_str().map(str::to_owned)).unwrap_or_default()
}

/// A named failure with its proof and its remedy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Finding {
    /// Its name.
    pub code: Code,
    /// How bad it is.
    pub severity: Severity,
    /// When it was found, milliseconds since the kernel started.
    pub at_ms: u64,
    /// What was expected and what was found, where.
    pub message: String,
    /// Kernel-log lines, paths, errno.
    pub evidence: Vec<String>,
    /// What to do.
    pub hint: String,
    /// Where it is explained.
    pub link: String,
}
