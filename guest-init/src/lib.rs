//! PID 1 for GPU guests, as a library so that its parts can be tested on any directory.

pub mod cli;
pub mod inject;
pub mod ldcache;
pub mod rootfs;
