//! Kernel modules: the modules of a kernel, their load order, and building NVIDIA's from source.

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
