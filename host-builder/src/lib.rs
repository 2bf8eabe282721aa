//! The host side: builds the GPU initrd from pinned artifacts, starts guests to try it, and asks them how they are.

#![cfg_attr(not(test), warn(unused_crate_dependencies))]
// What is printed comes from anywhere: `ui` makes it harmless.
#![warn(clippy::print_stdout, clippy::print_stderr)]

pub mod archive;
pub mod cache;
pub mod cli;
pub mod commands;
mod compare;
pub mod digest;
pub mod doctor;
pub mod error;
mod file_type;
pub mod files;
pub mod gpus;
pub mod interrupt;
pub mod kernel_modules;
pub mod lock;
pub mod metrics;
pub mod pack;
pub mod payload;
pub mod plain;
pub mod plan;
pub mod profile;
mod progress;
pub mod query;
pub mod resolve;
pub mod select;
pub mod source;
pub mod space;
pub mod terminal;
pub mod toolroot;
pub mod trees;
pub mod ui;
pub mod unpack;
pub mod vm;

/// Name and version of this tool, as manifests carry it.
pub const NAME: &str = concat!("gpu-initrd ", env!("CARGO_PKG_VERSION"));

/// PID 1: the static binary that `build.rs` made from the guest-init crate.
pub const GUEST_INIT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/guest-init"));
