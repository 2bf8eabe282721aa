//! Kernel modules: what a kernel brings, in which order they load, and building NVIDIA's from source.

pub mod build;
pub mod check;
mod depmod;
pub mod features;
pub mod index;
pub mod order;
pub mod prebuilt;
mod symbols;

pub use index::{Index, Module};
