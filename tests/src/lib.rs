//! The rig: what the end-to-end tests boot, and what they boot it with.
//!
//! A [`guest`] under [`qemu`], with GPUs that are not there ([`phantom`]), asked over [`vsock`], on container [`roots`] made from Debian's
//! packages and put on a [`disk`].

#![cfg_attr(not(test), warn(unused_crate_dependencies))]

pub mod build;
pub mod checks;
pub mod elf;
mod error;
pub mod guest;
mod monitor;
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
// What the host tool starts guests with is what the tests start them with.
pub use host_builder::programs::{process, tools};
pub use host_builder::vm::{disk, qemu};
