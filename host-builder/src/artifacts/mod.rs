//! Every byte that is pinned: the cache, and what is unpacked of it.

pub mod cache;
pub(crate) mod compare;
pub(crate) mod directory;
pub mod tree;
pub mod unpack;
