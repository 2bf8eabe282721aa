//! One module per command.

pub mod boot;
pub mod build_initrd;
mod build_payload;
mod build_report;
pub mod inspect;
pub mod status;
