//! One kernel module: its metadata (`.modinfo`), and its path.

use crate::artifacts::unpack::decompressor;
use crate::common::error::{Doing, Error, Result};
use crate::common::files::base_name;
use crate::common::plain;
use image::elf::{Modinfo, modinfo};
use serde::{Deserialize, Serialize};
use std::io::Read;
use std::path::Path;

/// Maximum size of an unpacked module.
const MAX_MODULE: u64 = 512 << 20;

/// One module.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Module {
    /// Name with underscores.
    pub name: String,
    /// Path below the directory of the kernel release: `kernel/fs/overlayfs/overlay.ko.xz`.
    pub path: String,
    /// Modules that it needs, in depmod's order if that is known, else in the order of `.modinfo`.
    pub depends: Vec<String>,
    /// Modules that should be loaded before it.
    pub soft_before: Vec<String>,
    /// Modules that should be loaded after it.
    pub soft_after: Vec<String>,
    /// Its aliases, without device aliases (those with a colon).
    pub aliases: Vec<String>,
    /// Kernel and build options that it is for.
    pub vermagic: String,
    /// Its own version, if it has one.
    pub version: Option<String>,
    /// Firmware files that it may request.
    pub firmware: Vec<String>,
}

impl Module {
    /// The release in its `vermagic`.
    pub fn release(&self) -> &str {
        self.vermagic.split(' ').next().unwrap_or_default()
    }

    /// Parses the metadata of a module file. `path` is below the directory of the kernel release.
    pub fn of(path: &str, modinfo: &Modinfo) -> Self {
        let words = |text: &str| -> Vec<String> {
            text.split([',', ' ', '\t']).filter(|word| !word.is_empty()).map(underscored).collect()
        };
        let (mut soft_before, mut soft_after) = (Vec::new(), Vec::new());
        for text in modinfo.all("softdep") {
            // "pre: a b post: c". NVIDIA's modules use commas, which kmod does not split at, but we
            // do.
            let mut into = None;
            for word in text.split([',', ' ', '\t']).filter(|word| !word.is_empty()) {
                match word {
                    "pre:" => into = Some(&mut soft_before),
                    "post:" => into = Some(&mut soft_after),
                    word => {
                        if let Some(list) = &mut into {
                            list.push(underscored(word));
                        }
                    }
                }
            }
        }
        let text = |key: &str| modinfo.get(key).map(|value| value.trim().to_owned());
        Self {
            name: text("name").map_or_else(|| name_of(path), |name| underscored(&name)),
            path: path.into(),
            depends: modinfo.get("depends").map(words).unwrap_or_default(),
            soft_before,
            soft_after,
            aliases: modinfo.all("alias").filter(|alias| !alias.contains(':')).map(underscored).collect(),
            vermagic: text("vermagic").unwrap_or_default(),
            version: text("version"),
            firmware: modinfo.all("firmware").map(str::to_owned).collect(),
        }
    }
}

/// Reads one module file. `path` is its path below the directory of the kernel release.
pub fn read_module(file: &Path, path: &str) -> Result<Module> {
    parse(&content(file)?, file, path)
}

pub(super) fn parse(bytes: &[u8], file: &Path, path: &str) -> Result<Module> {
    let info = modinfo(bytes).map_err(|error| not_a_module(file, error))?;
    Ok(Module::of(path, &info))
}

/// The error for a file that is no kernel module.
pub fn not_a_module(file: &Path, error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::new(format!("{}: expected a kernel module", file.display()))
        .source(error)
        .hint("its package is damaged, or it is not a module")
}

/// The uncompressed bytes of a module file.
pub fn content(file: &Path) -> Result<Vec<u8>> {
    uncompress(&plain::read(file, MAX_MODULE)?, file)
}

/// Uncompresses the bytes of `file`.
pub fn uncompress(bytes: &[u8], file: &Path) -> Result<Vec<u8>> {
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    let mut content = Vec::new();
    decompressor(&name, bytes)?.take(MAX_MODULE).read_to_end(&mut content).doing("unpacking", file)?;
    Ok(content)
}

pub(super) fn is_module(path: &str) -> bool {
    uncompressed(path).ends_with(".ko")
}

/// A module's path without the suffix of its compression.
pub fn uncompressed(path: &str) -> &str {
    [".xz", ".zst", ".gz"].iter().find_map(|suffix| path.strip_suffix(suffix)).unwrap_or(path)
}

pub(super) fn name_of(path: &str) -> String {
    underscored(uncompressed(base_name(path)).trim_end_matches(".ko"))
}

/// Replaces hyphens, as the kernel does in names of modules.
pub fn underscored(name: &str) -> String {
    name.replace('-', "_")
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::elf::parse_modinfo;

    #[test]
    fn softdeps_are_split_at_commas_and_spaces() {
        let info = parse_modinfo(
            b"softdep=pre: ecdh_generic,ecdsa-generic post: x y\0depends=a,b-c\0alias=pci:v1\0",
        );
        let module = Module::of("kernel/x/nvidia-uvm.ko.xz", &info);
        assert_eq!(module.name, "nvidia_uvm");
        assert_eq!(module.soft_before, ["ecdh_generic", "ecdsa_generic"]);
        assert_eq!(module.soft_after, ["x", "y"]);
        assert_eq!(module.depends, ["a", "b_c"]);
        assert_eq!(module.aliases, Vec::<String>::new());
    }
}
