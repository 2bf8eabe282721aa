//! Kernel modules: what a kernel brings, in which order they load, and building NVIDIA's from source.

pub mod check;
mod depmod;
pub mod features;
pub mod firmware;
pub mod gpus;
pub mod index;
pub mod make;
pub mod module;
pub mod order;
mod symbols;

pub use index::Index;
pub use module::Module;
