//! The rig: what the end-to-end tests boot, and what they boot it with.
//!
//! A guest under QEMU, with GPUs that are not there ([`phantom`]), asked over vsock, on container roots made from Debian's packages.

mod error;
pub mod phantom;

pub use error::RigError;
