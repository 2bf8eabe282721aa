//! A selected file: its source, its destination, and the reason for it.

use crate::artifacts::unpack::Unpacked;
use image::capability::Capability;
use std::path::PathBuf;

/// One selected file.
#[derive(Debug, Clone)]
pub struct Selected {
    /// Its path on this machine.
    pub source: PathBuf,
    /// Its path in the initramfs.
    pub path: String,
    /// Its size and digest.
    pub file: Unpacked,
    /// Its package.
    pub origin: String,
    /// Why it is packed.
    pub reason: String,
    /// The selected capabilities that it belongs to, sorted; empty for files that are not for
    /// containers.
    pub capabilities: Vec<Capability>,
    /// SONAME of a library.
    pub soname: Option<String>,
    /// The newest version of glibc that it requires: major, minor.
    pub glibc: Option<(u32, u32)>,
}

/// A link to a selected file.
#[derive(Debug, Clone)]
pub struct Link {
    /// Its path in the initramfs.
    pub path: String,
    /// Its target.
    pub target: String,
    /// Package of the file that it points to.
    pub origin: String,
    /// Why it is packed.
    pub reason: String,
    /// As [`Selected::capabilities`].
    pub capabilities: Vec<Capability>,
}

/// Where a file belongs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Destination {
    /// The library directory, or a subdirectory of it.
    Library(&'static str),
    /// The directory of programs.
    Program,
    /// A path in the container.
    Data(String),
}

/// Returns `capability compute` or `capabilities compute, video`.
pub fn reason(capabilities: &[Capability]) -> String {
    let names: Vec<_> = capabilities.iter().map(|capability| capability.name()).collect();
    format!("{} {}", if names.len() == 1 { "capability" } else { "capabilities" }, names.join(", "))
}
