//! Pinned artifacts: the cache, and their unpacked forms.

pub mod cache;
pub(crate) mod compare;
pub(crate) mod directory;
pub mod tree;
pub mod unpack;
