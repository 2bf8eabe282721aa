//! Which driver files an image gets: capabilities, as containers ask for them, to files, as the driver ships them.

use crate::error::{Doing, Error, Result};
use crate::trees::Tree;
use crate::unpack::Unpacked;
use image::elf;
use image::layout;
use std::collections::BTreeSet;
use std::fs::File;
use std::path::PathBuf;

/// What a capability needs.
#[derive(Debug, Clone, Copy)]
enum Item {
    /// `STEM.so.<driver version>`.
    Library(&'static str),
    /// A program.
    Program(&'static str),
}

/// Capabilities and their files. Names are those of `NVIDIA_DRIVER_CAPABILITIES`.
const CAPABILITIES: &[(&str, &[Item])] = &[
    (
        "compute",
        &[
            Item::Library("libcuda"),
            Item::Library("libnvidia-ptxjitcompiler"),
            Item::Library("libnvidia-nvvm"),
            Item::Library("libnvidia-gpucomp"),
        ],
    ),
    (
        "utility",
        &[Item::Library("libnvidia-ml"), Item::Program("nvidia-smi"), Item::Program("nvidia-modprobe")],
    ),
    (
        "video",
        &[
            Item::Library("libnvcuvid"),
            Item::Library("libnvidia-encode"),
            Item::Library("libnvidia-opticalflow"),
        ],
    ),
];

/// What is selected when nothing is said.
pub const DEFAULT: &[&str] = &["compute", "utility"];

/// Libraries that every glibc container has: what driver files may need besides each other.
const GLIBC: &[&str] = &[
    "libc.so.6",
    "libm.so.6",
    "libdl.so.2",
    "libpthread.so.0",
    "librt.so.1",
    "libgcc_s.so.1",
    "ld-linux-x86-64.so.2",
    "ld-linux-aarch64.so.1",
];

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
    /// The capability that asked for it.
    pub reason: String,
}

/// Checks a list of capability names: sorted, each once.
pub fn capabilities(list: &[String]) -> Result<Vec<String>> {
    let known: Vec<_> = CAPABILITIES.iter().map(|(name, _)| *name).collect();
    let mut result = BTreeSet::new();
    for name in list {
        if !known.contains(&name.as_str()) {
            return Err(Error::new(format!("unknown capability {name:?}"))
                .hint(format!("known: {}", known.join(", "))));
        }
        result.insert(name.clone());
    }
    if result.is_empty() {
        return Err(Error::new("no capability is selected").hint(format!("known: {}", known.join(", "))));
    }
    Ok(result.into_iter().collect())
}

/// The files of some capabilities, in the unpacked packages, with every library they need.
pub fn select(trees: &[Tree], capabilities: &[String], driver: &str) -> Result<Vec<Selected>> {
    let mut selected: Vec<Selected> = Vec::new();
    for (capability, items) in CAPABILITIES.iter().filter(|(name, _)| capabilities.iter().any(|c| c == name))
    {
        for item in *items {
            selected.push(find(trees, *item, capability, driver)?);
        }
    }
    check_needed(&selected)?;
    Ok(selected)
}

fn find(trees: &[Tree], item: Item, capability: &str, driver: &str) -> Result<Selected> {
    let (name, dir) = match item {
        Item::Library(stem) => (format!("{stem}.so.{driver}"), layout::DRIVER_LIB_DIR),
        Item::Program(name) => (name.to_owned(), layout::DRIVER_BIN_DIR),
    };
    let is_it = |file: &Unpacked| {
        file.path.rsplit('/').next() == Some(name.as_str())
            && (matches!(item, Item::Library(_)) || file.executable)
    };
    let found = trees.iter().find_map(|tree| Some((tree, tree.files.iter().find(|file| is_it(file))?)));
    let Some((tree, file)) = found else {
        let stem = name.split(".so.").next().unwrap_or(&name);
        let other = trees
            .iter()
            .flat_map(|tree| &tree.files)
            .map(|file| file.path.rsplit('/').next().unwrap_or(&file.path));
        let other: Vec<_> = other.filter(|file| file.starts_with(&format!("{stem}.so."))).collect();
        let found = if other.is_empty() { "nothing of that name".to_owned() } else { other.join(", ") };
        return Err(Error::new(format!("capability {capability} expects {name}, the packages have {found}"))
            .hint("the packages are not those of this driver; resolve again (build-initrd --update-lock), or add the package to the profile ([userspace])"));
    };
    Ok(Selected {
        source: tree.path(file),
        path: format!("{dir}/{name}"),
        file: file.clone(),
        origin: tree.origin.clone(),
        reason: format!("capability {capability}"),
    })
}

/// Every `NEEDED` entry must name a selected library or one of glibc's.
fn check_needed(selected: &[Selected]) -> Result<()> {
    let mut have: BTreeSet<String> = GLIBC.iter().map(|name| (*name).to_owned()).collect();
    let mut needed = Vec::new();
    for file in selected {
        let source = File::open(&file.source).doing("opening", &file.source)?;
        let elf = elf::read(&source).map_err(|error| {
            Error::new(format!("{}: expected an ELF file", file.source.display()))
                .source(error)
                .hint("its package is damaged: remove the cache's trees directory and run again")
        })?;
        let text = |bytes: &Vec<u8>| String::from_utf8_lossy(bytes).into_owned();
        have.extend(elf.soname.as_ref().map(text));
        needed.extend(elf.needed.iter().map(|name| (file, text(name))));
    }
    match needed.iter().find(|(_, name)| !have.contains(name)) {
        None => Ok(()),
        Some((file, name)) => Err(Error::new(format!(
            "{} needs {name}, which is neither selected nor part of glibc",
            file.path
        ))
        .hint("select the capability that has it, or report it: the table of capabilities lacks it")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(files: &[(&str, bool)]) -> Tree {
        let file = |(path, executable): &(&str, bool)| Unpacked {
            path: (*path).into(),
            size: 1,
            sha256: "a".into(),
            executable: *executable,
        };
        Tree { root: "/nowhere".into(), origin: "package 1".into(), files: files.iter().map(file).collect() }
    }

    #[test]
    fn capabilities_are_sorted_and_unknown_ones_refused() {
        let list =
            |words: &[&str]| capabilities(&words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>());
        assert_eq!(list(&["utility", "compute", "utility"]).unwrap(), ["compute", "utility"]);
        assert!(list(&["graphic"]).unwrap_err().remedy().unwrap().contains("compute"));
        assert!(list(&[]).is_err());
    }

    #[test]
    fn the_version_counts_to_the_last_digit() {
        let trees = [tree(&[("usr/lib/libcuda.so.550.163.1", false)])];
        let error = find(&trees, Item::Library("libcuda"), "compute", "550.163.01").unwrap_err().to_string();
        assert!(
            error.contains("expects libcuda.so.550.163.01") && error.contains("have libcuda.so.550.163.1"),
            "{error}"
        );
    }

    #[test]
    fn a_program_must_be_executable() {
        let trees =
            [tree(&[("usr/share/bug/nvidia-smi", false), ("usr/lib/nvidia/current/nvidia-smi", true)])];
        let found = find(&trees, Item::Program("nvidia-smi"), "utility", "1").unwrap();
        assert_eq!(found.file.path, "usr/lib/nvidia/current/nvidia-smi");
        assert_eq!(found.path, "/usr/bin/nvidia-smi");
    }
}
