//! Starts, awaits, restarts and stops the container, and shuts down the guest.

#[cfg(feature = "fault-injection")]
pub mod fault;
pub mod monitor;
pub mod panic;
pub mod reap;
pub mod run;
pub mod shutdown;
