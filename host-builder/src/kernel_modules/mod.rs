//! Kernel modules: what a kernel brings, in which order they load, and building NVIDIA's from source.

pub mod build;
pub mod check;
pub mod compile;
mod depmod;
pub mod features;
pub mod finished;
pub mod headers;
pub mod index;
pub mod order;
pub mod prebuilt;
pub mod sign;
pub mod source;
mod steps;
mod symbols;
pub mod workshop;

pub use index::{Index, Module};
