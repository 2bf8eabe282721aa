//! Shared by all modules: errors, files, digests, text for a terminal, interrupts, progress.

pub mod clean;
pub mod digest;
pub mod error;
pub mod files;
pub mod halt;
pub mod interrupt;
pub mod parallel;
pub mod plain;
pub mod plot;
pub(crate) mod progress;
pub mod space;
pub mod terminal;
pub mod ui;
