//! A family of metrics, and a sample of it.

/// A family of metrics.
pub struct Family {
    /// Its name.
    pub name: &'static str,
    /// What it measures.
    pub help: &'static str,
    /// `gauge` or `counter`.
    pub kind: &'static str,
    /// Its labels in addition to `target`, for docs/operating.md.
    pub labels: &'static str,
}

/// A sample.
pub struct Sample {
    /// What it measures.
    pub family: &'static Family,
    /// Its labels without `target`.
    pub labels: Vec<(&'static str, Word)>,
    /// The number.
    pub value: Value,
}

/// The value of a label.
pub enum Word {
    /// One of a few constants.
    Ours(String),
    /// A value from a guest.
    Guests(String),
}

/// The value of a sample.
#[derive(Clone, Copy)]
pub enum Value {
    /// A number of things.
    Count(u64),
    /// A time, as seconds.
    Millis(u64),
}
