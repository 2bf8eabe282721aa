//! The host side: builds the GPU initrd from pinned artifacts, starts guests to try it, and queries
//! running guests.

#![cfg_attr(not(test), warn(unused_crate_dependencies))]
// What is printed comes from anywhere: `ui` makes it harmless.
#![warn(clippy::print_stdout, clippy::print_stderr)]

pub mod artifacts;
pub mod build;
pub mod cli;
pub mod common;
pub mod doctor;
pub mod guest_client;
pub mod initramfs;
pub mod kernel_modules;
pub mod pins;
pub mod programs;
pub mod resolve;
pub mod vm;

/// Name and version of this tool, as manifests carry it.
pub const NAME: &str = concat!("gpu-initrd ", env!("CARGO_PKG_VERSION"));

/// PID 1: the static binary that `build.rs` made from the guest-init crate.
pub const GUEST_INIT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/guest-init"));
