//! The host's access to a guest: questions, events, and what a supervisor is told.

mod connection;
pub mod push;
pub mod server;
pub(crate) mod smbios;
pub(crate) mod systemd_notify;
