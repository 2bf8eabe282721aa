//! The load order of modules: hard dependencies as libkmod orders them, soft dependencies before
//! and after them.

use super::depmod::{edges, positions};
use super::index::Index;
use super::module::Module;
use crate::common::error::{Error, Result};
use std::collections::BTreeSet;

/// Computes load orders for one kernel.
pub struct LoadOrder<'a> {
    index: &'a Index,
    edges: Vec<Vec<usize>>,
    missing: Vec<(usize, String)>,
    positions: Vec<Option<usize>>,
}

enum Found {
    Builtin,
    Modules(Vec<usize>),
    Nothing,
}

impl Index {
    /// Prepares the load orders of this kernel.
    pub fn load_order(&self) -> LoadOrder<'_> {
        let (edges, missing) = edges(self);
        let positions = positions(self, &edges);
        LoadOrder { index: self, edges, missing, positions }
    }
}

impl<'a> LoadOrder<'a> {
    /// All direct and indirect dependencies of one module, in load order, without the module
    /// itself.
    pub fn dependencies(&self, name: &str) -> Result<Vec<&'a Module>> {
        let at = self.at(name)?;
        Ok(self.hard(at)?.into_iter().map(|at| &self.index.modules[at]).collect())
    }

    /// The modules to load for these modules, in order, each once. Built-in modules are left out. A
    /// missing module or hard dependency is an error; a soft dependency may be missing.
    pub fn plan(&self, wanted: &[impl AsRef<str>]) -> Result<Vec<&'a Module>> {
        let mut order = Vec::new();
        let mut seen = BTreeSet::new();
        for name in wanted {
            match self.find(name.as_ref()) {
                Found::Builtin => {}
                Found::Modules(list) => {
                    for at in list {
                        self.visit(at, &mut order, &mut seen)?;
                    }
                }
                Found::Nothing => return Err(self.unknown(name.as_ref())),
            }
        }
        Ok(order.into_iter().map(|at| &self.index.modules[at]).collect())
    }

    /// The modules that should be loaded before this one, and those after it, as far as the kernel has them as modules.
    pub fn soft_dependencies(&self, module: &Module) -> (Vec<&'a str>, Vec<&'a str>) {
        let named = |names: &[String]| {
            let modules = |name: &String| match self.find(name) {
                Found::Modules(list) => list,
                Found::Builtin | Found::Nothing => Vec::new(),
            };
            names.iter().flat_map(modules).map(|at| self.index.modules[at].name.as_str()).collect()
        };
        (named(&module.soft_before), named(&module.soft_after))
    }

    fn visit(&self, at: usize, order: &mut Vec<usize>, seen: &mut BTreeSet<usize>) -> Result<()> {
        let mut chain = self.hard(at)?;
        chain.push(at);
        for at in chain {
            if !seen.insert(at) {
                continue;
            }
            let module = &self.index.modules[at];
            self.soft(&module.soft_before, order, seen)?;
            order.push(at);
            self.soft(&module.soft_after, order, seen)?;
        }
        Ok(())
    }

    fn soft(&self, names: &[String], order: &mut Vec<usize>, seen: &mut BTreeSet<usize>) -> Result<()> {
        for name in names {
            if let Found::Modules(list) = self.find(name) {
                for at in list {
                    self.visit(at, order, seen)?;
                }
            }
        }
        Ok(())
    }

    /// Dependencies of a module in load order.
    fn hard(&self, at: usize) -> Result<Vec<usize>> {
        let mut all = BTreeSet::new();
        let mut open = vec![at];
        while let Some(next) = open.pop() {
            if let Some((_, name)) = self.missing.iter().find(|(module, _)| *module == next) {
                let module = &self.index.modules[next];
                return Err(Error::new(format!(
                    "module {} needs {name}, but kernel {} has it neither as a module nor built in",
                    module.name, self.index.release
                ))
                .hint("the kernel's package is incomplete, or the module was built for another kernel"));
            }
            open.extend(self.edges[next].iter().filter(|at| all.insert(**at)));
        }
        let mut list: Vec<usize> = all.into_iter().collect();
        list.sort_by_key(|at| std::cmp::Reverse(self.positions[*at]));
        match list.iter().find(|at| self.positions[**at].is_none()) {
            None => Ok(list),
            Some(at) => Err(Error::new(format!("module {} depends on itself", self.index.modules[*at].name))),
        }
    }

    fn at(&self, name: &str) -> Result<usize> {
        let name = name.replace('-', "_");
        self.index.modules.iter().position(|module| module.name == name).ok_or_else(|| self.unknown(&name))
    }

    /// Finds a module by name, then by alias, as kmod does. Built-in modules have no dependencies.
    fn find(&self, name: &str) -> Found {
        let name = name.replace('-', "_");
        if self.index.builtin.contains(&name) {
            return Found::Builtin;
        }
        if let Some(at) = self.index.modules.iter().position(|module| module.name == name) {
            return Found::Modules(vec![at]);
        }
        if self.index.builtin_aliases.contains(&name) {
            return Found::Builtin;
        }
        let has = |module: &Module| module.aliases.contains(&name);
        let list: Vec<usize> =
            (0..self.index.modules.len()).filter(|at| has(&self.index.modules[*at])).collect();
        if list.is_empty() { Found::Nothing } else { Found::Modules(list) }
    }

    fn unknown(&self, name: &str) -> Error {
        Error::new(format!(
            "kernel {} has no module {name}, neither as a file nor built in",
            self.index.release
        ))
        .hint("choose another kernel, or leave the module out of the profile ([kernel] modules)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn index(modules: &[(&str, &str, &str)], builtin: &[&str]) -> Index {
        let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        let module = |(name, depends, soft): &(&str, &str, &str)| Module {
            name: (*name).into(),
            path: format!("kernel/{name}.ko"),
            depends: words(depends),
            soft_before: words(soft),
            soft_after: vec![],
            aliases: vec![format!("alias_of_{name}")],
            vermagic: "6.12 SMP".into(),
            version: None,
            firmware: vec![],
        };
        Index {
            release: "6.12".into(),
            modules: modules.iter().map(module).collect(),
            builtin: builtin.iter().map(|name| (*name).to_owned()).collect(),
            builtin_aliases: BTreeSet::from(["built_in_alias".to_owned()]),
        }
    }

    fn plan(index: &Index, wanted: &[&str]) -> Vec<String> {
        index.load_order().plan(wanted).unwrap().iter().map(|module| module.name.clone()).collect()
    }

    #[test]
    fn modules_come_after_their_dependencies() {
        let index =
            index(&[("erofs", "libcrc32c", ""), ("libcrc32c", "", "crc32c"), ("crc32c", "", "")], &[]);
        assert_eq!(plan(&index, &["erofs"]), ["crc32c", "libcrc32c", "erofs"]);
    }

    #[test]
    fn built_in_and_absent_soft_dependencies_are_left_out() {
        let index = index(&[("a", "ext4", "gone built_in_alias alias_of_b"), ("b", "", "")], &["ext4"]);
        assert_eq!(plan(&index, &["ext4", "a"]), ["b", "a"]);
    }

    #[test]
    fn missing_module_or_dependency_is_named() {
        let index = index(&[("a", "gone", "")], &[]);
        let error = |wanted: &str| index.load_order().plan(&[wanted]).unwrap_err().to_string();
        assert!(error("a").contains("module a needs gone"));
        assert!(error("b").contains("no module b"));
    }

    #[test]
    fn soft_dependency_cycle_ends() {
        let index = index(&[("a", "", "b"), ("b", "", "a")], &[]);
        assert_eq!(plan(&index, &["a"]), ["b", "a"]);
    }
}
