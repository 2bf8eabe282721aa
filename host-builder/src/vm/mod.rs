//! Starts a guest on this machine, for trying an image and for the tests: QEMU from a toolroot, the vsock backend, disk
//! images, and how they are brought up and down together.

pub mod accel;
pub mod backend;
pub mod cmdline;
pub mod disk;
mod gate;
pub mod process;
pub mod qemu;
pub mod terminal;
pub mod tools;
pub mod vfio;
pub mod volume;
