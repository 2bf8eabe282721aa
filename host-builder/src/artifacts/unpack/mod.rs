//! Unpacks archives: tar in any compression, zip, Debian and RPM packages, NVIDIA's installers.
//! Archives are not trusted: no entry leaves the root, none is written through a link, there are no
//! device nodes, and sizes are limited.

mod deb;
mod error;
mod format;
mod rpm;
mod runfile;
mod stream;
mod tar;
mod unpacker;
mod writer;
mod zip;

pub use self::stream::{decompressor, inflate};
pub use self::unpacker::Unpacker;
pub use self::writer::Unpacked;

#[cfg(test)]
mod tests;
