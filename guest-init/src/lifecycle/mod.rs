//! The container's life and the guest's end: start, wait, restart, stop, shut down.

#[cfg(feature = "fault-injection")]
pub mod fault;
pub mod monitor;
pub mod panic;
pub mod reap;
pub mod run;
pub mod shutdown;
