//! One module per command.

pub mod boot;
pub mod build_initrd;
pub mod build_modules;
mod build_payload;
mod build_report;
pub mod cat;
pub mod diff;
pub mod doctor;
pub mod events;
pub mod examine;
pub mod extract;
mod file_systems;
pub mod inspect;
mod ld_cache;
pub mod list;
pub mod logs;
pub mod man;
mod manifest_of;
pub mod metrics;
pub mod pins;
pub mod sbom;
pub mod status;
mod test_guest;
pub mod verify;
