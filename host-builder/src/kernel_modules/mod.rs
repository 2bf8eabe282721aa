//! Kernel modules: what a kernel brings, in which order they load, and building NVIDIA's from source.

pub mod build;
mod depmod;
pub mod index;
pub mod order;
mod symbols;

pub use index::{Index, Module};
