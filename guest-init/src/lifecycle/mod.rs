//! Starts, awaits, restarts and stops the container, and shuts down the guest.

mod error;
#[cfg(feature = "fault-injection")]
pub mod fault;
mod kernel_lines;
pub mod monitor;
pub mod panic;
pub mod power_button;
pub mod reap;
pub mod reserve;
pub mod run;
pub mod shutdown;
pub mod stop;
pub mod watchdog;

pub use error::GuestTrouble;
pub use stop::{Recipient, StopSwitch};
