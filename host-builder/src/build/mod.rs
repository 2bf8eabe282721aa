//! The pipelines of a build, and its steps in order: select, plan, payload, pack.

pub mod initrd;
pub mod modules;
pub mod outputs;
pub mod pack;
pub mod payload;
pub mod plan;
pub mod select;
