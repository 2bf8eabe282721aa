//! The rig: what the end-to-end tests boot, and what they boot it with.
//!
//! A [`guest`] runs under [`qemu`] with emulated GPUs ([`phantom`]), and answers over [`vsock`].
//! Its container [`roots`] are made from Debian's packages and stored on a [`disk`].

#![cfg_attr(not(test), warn(unused_crate_dependencies))]

pub mod build;
pub mod checks;
pub mod elf;
mod error;
pub mod guest;
pub mod pair;
pub mod phantom;
pub mod record;
pub mod roots;
pub mod scene;
mod slots;
pub mod stub;
pub mod terminal;
pub mod variant;
mod vmlinux;
pub mod vsock;

pub use error::RigError;
// The tests start guests with host-builder's own code.
pub use host_builder::programs::{process, tools};
pub use host_builder::vm::{disk, qemu};
