//! The rig: what the end-to-end tests boot, and what they boot it with.
//!
//! A [`guest`] under [`qemu`], with GPUs that are not there ([`phantom`]), asked over [`vsock`], on container [`roots`] made from Debian's
//! packages and put on a [`disk`].

mod apt;
pub mod build;
pub mod disk;
mod error;
pub mod guest;
pub mod phantom;
pub mod process;
pub mod qemu;
pub mod roots;
pub mod scene;
pub mod stub;
pub mod tools;
pub mod variant;
pub mod vsock;

pub use error::RigError;
