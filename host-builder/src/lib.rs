//! The host side: builds the GPU initrd from pinned artifacts, starts guests to try it, and asks them how they are.

pub mod cache;
pub mod error;
pub mod lock;
pub mod profile;
pub mod source;
pub mod toolroot;
pub mod trees;
pub mod ui;
pub mod unpack;
