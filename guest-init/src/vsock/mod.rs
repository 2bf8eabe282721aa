//! The host's access to a guest: status requests, events, and notifications for a supervisor.

mod connection;
pub mod push;
pub mod server;
mod session;
pub(crate) mod smbios;
pub(crate) mod systemd_notify;
