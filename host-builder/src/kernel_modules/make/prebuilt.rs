//! Prebuilt modules of the GPU in an artifact. They are used unchanged, including signatures.

use super::built::Built;
use crate::artifacts::cache::Cache;
use crate::artifacts::tree::Tree;
use crate::common::digest::sha256;
use crate::common::error::{Doing, Error, Result};
use crate::common::files::base_name;
use crate::kernel_modules::module::{parse, uncompress, underscored};
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// Directory of a release's modules in a tree.
const MODULES: &str = "usr/lib/modules/";

/// The kernel releases for which these trees have modules.
pub fn releases(trees: &[Tree]) -> BTreeSet<String> {
    let files = trees.iter().flat_map(|tree| &tree.files);
    let of = |path: &str| path.strip_prefix(MODULES)?.split_once('/').map(|(release, _)| release.to_owned());
    files.filter_map(|file| of(&file.path)).collect()
}

/// Copies the GPU's modules of one kernel release, uncompressed and verified, into the cache.
pub fn built(cache: &Cache, trees: &[Tree], release: &str) -> Result<Built> {
    let origins: Vec<_> = trees.iter().map(|tree| tree.origin.as_str()).collect();
    let keys: Vec<_> = trees.iter().map(|tree| tree.key.as_str()).collect();
    let key = sha256([&["prebuilt 2", release][..], &keys].concat().join("\n").as_bytes());
    let dir = cache.derived("modules", &key, |out| {
        let prefix = format!("{MODULES}{release}/");
        let mut found = false;
        for tree in trees {
            for file in tree.files.iter().filter(|file| file.path.starts_with(&prefix)) {
                let Some(name) = module_name(&file.path) else { continue };
                let content = uncompress(&tree.read(file)?, Path::new(&file.path))?;
                let name = own_name(name, &content, Path::new(&file.path))?;
                if out.join(&name).exists() {
                    return Err(Error::new(format!("{}: a second module {name}", tree.path(file).display()))
                        .hint("the artifact has modules of several builds: select the files of one (only = [...])"));
                }
                fs::write(out.join(&name), content).doing("writing", &out.join(name))?;
                found = true;
            }
        }
        if found {
            return Ok(());
        }
        let others = Vec::from_iter(releases(trees)).join(", ");
        Err(Error::new(format!("{}: expected {prefix}…/nvidia.ko, found releases {others:?}", origins.join(", ")))
            .hint("modules and kernel must have the same release: set it in the profile ([kernel] release), or get modules that were built for the kernel"))
    })?;
    Built::read(cache, dir, origins.join(", "))
}

/// Returns `nvidia.ko` for `…/updates/dkms/nvidia.ko.xz`; `None` if the file is not a module of the
/// GPU.
pub fn module_name(path: &str) -> Option<&str> {
    let name = base_name(path).split_inclusive(".ko").next()?;
    (name.ends_with(".ko") && name.starts_with("nvidia") && !path.contains("/drivers/video/")).then_some(name)
}

/// The file name for the module's own name. Debian's DKMS names the file of `nvidia`
/// nvidia-current.ko.
fn own_name(name: &str, content: &[u8], origin: &Path) -> Result<String> {
    let module = parse(content, origin, name)?;
    if underscored(name.trim_end_matches(".ko")) == module.name {
        return Ok(name.to_owned());
    }
    file_name(&module.name).ok_or_else(|| {
        let message = format!(
            "{}: expected a module of the GPU, found one with the name {:?}",
            origin.display(),
            module.name
        );
        Error::new(message).hint("publishers do not make such archives: check where it came from")
    })
}

/// The file name for a module of the GPU; `None` for a name that could be a path.
fn file_name(module: &str) -> Option<String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let good = module.starts_with("nvidia") && module.chars().all(plain);
    good.then(|| format!("{}.ko", module.replace('_', "-")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_of_a_module_is_not_used_as_a_path() {
        assert_eq!(file_name("nvidia_uvm").as_deref(), Some("nvidia-uvm.ko"));
        for name in ["/etc/nvidia", "nvidia/../../x", "../nvidia", "nvidia\0", "ext4", ""] {
            assert_eq!(file_name(name), None, "{name}");
        }
    }

    #[test]
    fn names_lose_their_compression_and_others_are_skipped() {
        assert_eq!(module_name("usr/lib/modules/r/updates/dkms/nvidia-uvm.ko.xz"), Some("nvidia-uvm.ko"));
        assert_eq!(module_name("usr/lib/modules/r/kernel/drivers/gpu/nvidia.ko"), Some("nvidia.ko"));
        for path in [
            "usr/lib/modules/r/kernel/fs/ext4.ko",
            "usr/lib/modules/r/nvidia.txt",
            "usr/lib/modules/r/kernel/drivers/video/fbdev/nvidia/nvidiafb.ko",
        ] {
            assert_eq!(module_name(path), None, "{path}");
        }
    }
}
