//! A difference that `verify` reports.

use serde::Serialize;

/// A difference between the expected and the actual state.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// Path in the image, or name in the manifest.
    pub of: String,
    /// What differs.
    pub what: &'static str,
    /// The expected value.
    pub expected: String,
    /// The actual value.
    pub found: String,
}

impl Difference {
    /// The difference between these two.
    pub fn new(of: &str, what: &'static str, expected: &str, found: &str) -> Self {
        Self { of: of.to_owned(), what, expected: expected.to_owned(), found: found.to_owned() }
    }
}
