//! PID 1 for GPU guests, as a library so that its parts can be tested on any directory.

#![cfg_attr(not(test), warn(unused_crate_dependencies))]

pub mod boot;
pub mod cli;
pub mod confined_fs;
pub mod container;
pub mod driver_files;
pub mod gpu;
pub mod kernel;
pub mod ldcache;
pub mod lifecycle;
pub mod locks;
pub mod network;
#[cfg(test)]
mod own_process;
pub mod status;
pub mod vsock;
