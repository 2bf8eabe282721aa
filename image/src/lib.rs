//! What the host builder and the guest init must agree on: where things are, what is in an initrd, what a boot is
//! told, what a guest reports. No side effects.

#![cfg_attr(not(test), warn(unused_crate_dependencies))]

pub mod capability;
pub mod config;
pub mod elf;
pub mod event;
pub mod layout;
pub mod ldcache;
pub mod manifest;
pub mod pattern;
pub mod pci;
pub mod requirement;
pub mod session;
pub mod status;
pub mod text;
pub mod wire;
