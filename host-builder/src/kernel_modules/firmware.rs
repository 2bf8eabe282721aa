//! Finds firmware of the driver in its unpacked artifacts.

use crate::artifacts::tree::Tree;
use crate::artifacts::unpack::Unpacked;
use crate::common::error::Error;
use crate::common::files::base_name;

/// Finds a file (`nvidia/550.163.01/gsp_ga10x.bin`) at the kernel's path, or in the directory
/// `firmware` of NVIDIA's installer, all of whose files have one version.
pub fn find<'a>(trees: &'a [Tree], name: &str) -> Option<(&'a Tree, &'a Unpacked)> {
    let places = [format!("usr/lib/firmware/{name}"), format!("firmware/{}", base_name(name))];
    let at = |place: &String| {
        let ends = |path: &str| path == place || path.ends_with(&format!("/{place}"));
        trees.iter().find_map(|tree| Some((tree, tree.files.iter().find(|file| ends(&file.path))?)))
    };
    places.iter().find_map(at)
}

/// The error for a firmware file that no artifact has.
pub fn missing(trees: &[Tree], name: &str) -> Error {
    let origins: Vec<_> = trees.iter().map(|tree| tree.origin.as_str()).collect();
    let origins = if origins.is_empty() { "no artifact".to_owned() } else { origins.join(", ") };
    let mut parts = name.split('/');
    let version = parts.nth(1).unwrap_or("VERSION");
    Error::new(format!("the modules request firmware {name}, but {origins} has no such file")).hint(format!(
        "firmware and modules must be of one driver version; resolve again: build-initrd --update-lock; or add an artifact \
         with sets = [\"firmware\"], such as NVIDIA's installer NVIDIA-Linux-x86_64-{version}.run with only = [\"firmware\"]; \
         without firmware no GPU starts: firmware = \"none\" in the profile says that this is meant"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    fn tree(path: &str) -> Tree {
        let file = Unpacked { path: path.into(), size: 1, sha256: String::new(), executable: false };
        Tree { root: PathBuf::new(), origin: "x 1".into(), key: String::new(), files: vec![file] }
    }

    #[test]
    fn firmware_is_found_in_packages_and_installers() {
        const NAME: &str = "nvidia/550.163.01/gsp_ga10x.bin";
        for path in [
            "usr/lib/firmware/nvidia/550.163.01/gsp_ga10x.bin",
            "NVIDIA-Linux-x86_64-550.163.01/firmware/gsp_ga10x.bin",
            "firmware/gsp_ga10x.bin",
        ] {
            assert!(find(&[tree(path)], NAME).is_some(), "{path}");
        }
        for path in [
            "usr/lib/firmware/nvidia/550.163.1/gsp_ga10x.bin",
            "firmware/gsp_tu10x.bin",
            "xfirmware/gsp_ga10x.bin",
        ] {
            assert!(find(&[tree(path)], NAME).is_none(), "{path}");
        }
        assert!(missing(&[], NAME).remedy().unwrap().contains("NVIDIA-Linux-x86_64-550.163.01.run"));
    }
}
