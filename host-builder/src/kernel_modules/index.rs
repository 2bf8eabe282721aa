//! The index of a kernel: what every module says about itself (`.modinfo`), and what is built in.

use super::module::{Module, content, is_module, name_of, not_a_module, parse, uncompressed, underscored};
use super::symbols::{Symbols, sort_dependencies};
use crate::artifacts::cache::Cache;
use crate::artifacts::tree::{Tree, read_json, write_json};
use crate::common::error::{Error, Result};
use crate::common::parallel;
use crate::common::plain;
use image::elf::parse_modinfo;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// Changed with every change of the index, so that old ones are not reused.
const RECIPE: &str = "3";
/// Every module of one kernel.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Index {
    /// Release of the kernel.
    pub release: String,
    /// Modules in depmod's order (that of `modules.order`, then the others).
    pub modules: Vec<Module>,
    /// Names of built-in modules.
    pub builtin: BTreeSet<String>,
    /// Aliases of built-in modules.
    pub builtin_aliases: BTreeSet<String>,
}

impl Index {
    /// The index of a kernel's artifacts, cached by the key of the artifact with its modules.
    /// `builtin`: the modules that the profile declares as built in; a kernel without modules has
    /// no others.
    pub fn of(cache: &Cache, trees: &[Tree], release: &str, builtin: &[String]) -> Result<Self> {
        let subdir = format!("usr/lib/modules/{release}");
        let mut index = match trees.iter().find(|tree| tree.root.join(&subdir).is_dir()) {
            Some(tree) => {
                let dir = cache.derived("module-index", &format!("{}-{RECIPE}", tree.key), |dir| {
                    write_json(&dir.join("index.json"), &Self::read(&tree.root.join(&subdir), release)?)
                })?;
                read_json(&dir.join("index.json"))?
            }
            None if builtin.is_empty() => {
                let names: Vec<_> = trees.iter().map(|tree| tree.origin.as_str()).collect();
                return Err(Error::new(format!("{}: expected the kernel's modules in {subdir}, found none", names.join(", ")))
                    .hint("list the built-in modules in the profile ([kernel] builtin), or add the artifact with the modules"));
            }
            None => Self { release: release.into(), ..Self::default() },
        };
        index.trust(builtin);
        Ok(index)
    }

    /// Uses the profile's list of built-in modules if the kernel itself has none, except for names
    /// that are modules.
    fn trust(&mut self, builtin: &[String]) {
        if self.builtin.is_empty() {
            let named = builtin.iter().map(|name| underscored(name));
            let apart: Vec<_> = named.filter(|name| self.module(name).is_none()).collect();
            self.builtin.extend(apart);
        }
    }

    /// Reads a directory `lib/modules/<release>`.
    pub fn read(dir: &Path, release: &str) -> Result<Self> {
        let mut paths: Vec<String> = Vec::new();
        for entry in walkdir::WalkDir::new(dir).sort_by_file_name() {
            let entry =
                entry.map_err(|error| Error::new(format!("reading {}", dir.display())).source(error))?;
            let path =
                entry.path().strip_prefix(dir).expect("entries are below the directory").to_string_lossy();
            if entry.file_type().is_file() && is_module(&path) {
                paths.push(path.into_owned());
            }
        }
        let order = lines(dir, "modules.order")?;
        let position: BTreeMap<&str, usize> =
            order.iter().enumerate().map(|(at, path)| (path.as_str(), at)).collect();
        paths.sort_by_key(|path| {
            (position.get(uncompressed(path)).copied().unwrap_or(usize::MAX), path.clone())
        });
        // Some kernels do not have this file.
        let builtin_info =
            plain::read_below(dir, "modules.builtin.modinfo", plain::MAX_TEXT).unwrap_or_default();
        let aliases = parse_modinfo(&builtin_info).0.into_iter().filter(|(key, value)| {
            key.split_once('.').is_some_and(|(_, field)| field == "alias") && !value.contains(':')
        });
        Ok(Self {
            release: release.into(),
            modules: read_all(dir, &paths)?,
            builtin: lines(dir, "modules.builtin")?.iter().map(|path| name_of(path)).collect(),
            builtin_aliases: aliases.map(|(_, value)| underscored(&value)).collect(),
        })
    }

    /// Adds a module that is not part of the kernel's package.
    pub fn add(&mut self, module: Module) {
        self.modules.retain(|old| old.name != module.name);
        self.modules.push(module);
    }

    /// The module with this name.
    pub fn module(&self, name: &str) -> Option<&Module> {
        let name = underscored(name);
        self.modules.iter().find(|module| module.name == name)
    }
}

fn read_all(dir: &Path, paths: &[String]) -> Result<Vec<Module>> {
    let read = |path: &String| {
        let file = dir.join(path);
        let bytes = content(&file)?;
        let symbols = Symbols::of(&bytes).map_err(|error| not_a_module(&file, error))?;
        Ok((parse(&bytes, &file, path)?, symbols))
    };
    let mut modules = parallel::map(paths, parallel::processors(), read)?;
    sort_dependencies(&mut modules);
    Ok(modules.into_iter().map(|(module, _)| module).collect())
}

fn lines(dir: &Path, name: &str) -> Result<Vec<String>> {
    let text = plain::read_text_below(dir, name)?;
    Ok(text.lines().map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn builtin_list_of_the_kernel_takes_precedence() {
        let module = |name: &str| Module::of(&format!("{name}.ko"), &image::elf::parse_modinfo(b""));
        let said = ["ext4".to_owned(), "virtio-blk".to_owned()];
        let trusted = |modules: &[&str], own: &[&str]| {
            let mut index = Index {
                modules: modules.iter().map(|name| module(name)).collect(),
                builtin: own.iter().map(|name| (*name).to_owned()).collect(),
                ..Index::default()
            };
            index.trust(&said);
            index.builtin.into_iter().collect::<Vec<_>>()
        };
        assert_eq!(trusted(&[], &[]), ["ext4", "virtio_blk"]);
        assert_eq!(trusted(&["virtio_blk"], &[]), ["ext4"]);
        assert_eq!(trusted(&["virtio_blk"], &["overlay"]), ["overlay"]);
    }
}
