//! Adds the driver's user-space files to a container, in the version of the kernel modules and where the container's
//! loader searches.
//!
//! A plan is derived from the [`Inventory`] and the container's [`ContainerRequest`], and applied in one of two ways. A
//! [`layer`](layer::layer) is a tree of hard links that becomes a lower layer of the container's overlay: nothing is copied
//! and the image does not change. A [`copy`](copy::copy) goes into a plain writable root. In both cases [`complete`] then
//! writes the loader cache and checks which files the loader will open.

mod bundled;
pub mod copy;
mod copy_record;
mod cuda_compat;
mod destination;
mod directory;
mod elf_facts;
mod error;
mod icd;
mod inventory;
pub mod layer;
mod libc_fit;
mod loader_setup;
mod musl;
mod names;
mod notice;
pub mod payload;
mod plan;
mod report;
mod request;
mod search;
#[cfg(test)]
mod tests;

pub use self::destination::{RUN_LINK, STORE_DIR, libc};
pub use self::error::InjectError;
pub use self::inventory::Inventory;
pub use self::loader_setup::complete;
pub use self::names::is_driver_program;
pub use self::notice::{MAX_NAMED, Notice};
pub use self::payload::PayloadError;
pub use self::plan::{Plan, PlannedFile, plan};
pub use self::report::{InjectReport, Item, ItemKind, Resolution};
pub use self::request::{ContainerRequest, DEFAULT_PATH};
