//! Starts a guest on this machine, to try an initrd and for the tests: QEMU from a toolroot, the vsock backend, disk
//! images, and their start and shutdown.

pub mod accel;
pub mod cmdline;
pub mod disk;
pub mod qemu;
pub mod qmp;
pub mod terminal;
pub mod vfio;
pub mod volume;
pub mod vsock_backend;
mod vsock_gate;
