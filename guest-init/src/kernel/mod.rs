//! Interfaces of the kernel: modules, log, mounts, disks.

pub mod beside;
pub mod bounded;
pub mod disks;
pub(crate) mod kmsg_reader;
pub mod kmsg_writer;
pub(crate) mod loopback;
pub mod modules;
pub mod mounts;
pub mod priority;
pub mod sysinfo;
pub(crate) mod verity;
