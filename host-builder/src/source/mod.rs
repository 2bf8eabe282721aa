//! Where artifacts come from.

pub mod apt;
mod apt_sources;
