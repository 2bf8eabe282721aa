//! Starts a guest on this machine, for trying an image and for the tests: QEMU from a toolroot, the vsock backend, disk
//! images, and how they are brought up and down together.

pub mod accel;
pub mod cmdline;
pub mod disk;
pub mod qemu;
pub mod terminal;
pub mod vfio;
pub mod volume;
pub mod vsock_backend;
mod vsock_proxy;
