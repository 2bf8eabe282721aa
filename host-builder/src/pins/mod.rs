//! Intent and facts: profiles, locks, and what a lock pins.

pub mod artifact;
pub mod lock;
pub mod lock_diff;
pub mod profile;
pub(crate) mod set;
