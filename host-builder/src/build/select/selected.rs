//! A selected file: where it comes from, where it goes, and why.

use crate::artifacts::unpack::Unpacked;
use image::capability::Capability;
use std::path::PathBuf;

/// One selected file.
#[derive(Debug, Clone)]
pub struct Selected {
    /// Where it is on this machine.
    pub source: PathBuf,
    /// Where it goes in the initramfs.
    pub path: String,
    /// Its size and digest.
    pub file: Unpacked,
    /// Its package.
    pub origin: String,
    /// What it is for, in words.
    pub reason: String,
    /// The selected capabilities that it belongs to, sorted; none for a file that no container gets.
    pub capabilities: Vec<Capability>,
    /// SONAME of a library.
    pub soname: Option<String>,
    /// The newest version of glibc that it requires: major, minor.
    pub glibc: Option<(u32, u32)>,
}

/// One link beside the selected files.
#[derive(Debug, Clone)]
pub struct Link {
    /// Where it goes in the initramfs.
    pub path: String,
    /// What it says.
    pub target: String,
    /// Package of the file that it leads to.
    pub origin: String,
    /// What it is for, in words.
    pub reason: String,
    /// As [`Selected::capabilities`].
    pub capabilities: Vec<Capability>,
}

/// Where a file goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Destination {
    /// The library directory, or a subdirectory of it.
    Library(&'static str),
    /// The directory of programs.
    Program,
    /// A path in the container.
    Data(String),
}

/// `capability compute`, `capabilities compute, video`.
pub fn reason(capabilities: &[Capability]) -> String {
    let names: Vec<_> = capabilities.iter().map(|capability| capability.name()).collect();
    format!("{} {}", if names.len() == 1 { "capability" } else { "capabilities" }, names.join(", "))
}
