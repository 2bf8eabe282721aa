//! PID 1 for GPU guests, as a library so that its parts can be tested on any directory.

#![cfg_attr(not(test), warn(unused_crate_dependencies))]

pub mod cli;
pub mod container;
pub mod disks;
pub mod driver;
#[cfg(feature = "fault-injection")]
pub mod fault;
pub mod finish;
pub mod gpu;
pub mod handover;
pub mod inject;
pub mod kmsg;
pub mod ldcache;
pub mod life;
pub mod modules;
pub mod mounts;
pub mod net;
pub mod notify;
#[cfg(test)]
mod own_process;
pub mod payload;
pub mod power;
pub mod report;
pub mod ring;
pub mod root;
pub mod rootfs;
pub mod server;
pub mod settings;
pub mod supervise;
pub mod watch;
