//! Profiles, locks, and the artifacts in a lock.

pub mod artifact;
pub mod branches;
pub mod lock;
pub mod lock_diff;
pub mod profile;
pub(crate) mod set;
