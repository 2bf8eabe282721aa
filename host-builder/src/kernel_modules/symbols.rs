//! Which symbols a module takes and which it gives. depmod finds dependencies by them, in the order of the symbol table;
//! the names in `depends:` are the same and their order is not.

use super::module::Module;
use goblin::elf::Elf;
use std::collections::HashMap;

/// What the kernel's build puts before the name of an exported symbol.
const EXPORT: &str = "__ksymtab_";

/// The symbols of one module.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Symbols {
    /// Undefined, in the order of the table.
    pub(super) taken: Vec<String>,
    /// Exported.
    pub(super) given: Vec<String>,
}

impl Symbols {
    /// Reads the table of an uncompressed module.
    pub(super) fn of(module: &[u8]) -> goblin::error::Result<Self> {
        let elf = Elf::parse(module)?;
        let mut symbols = Self::default();
        for symbol in &elf.syms {
            let name = elf.strtab.get_at(symbol.st_name).unwrap_or_default();
            if symbol.st_shndx == 0 && !name.is_empty() {
                symbols.taken.push(name.to_owned());
            } else if let Some(name) = name.strip_prefix(EXPORT) {
                symbols.given.push(name.to_owned());
            }
        }
        Ok(symbols)
    }
}

/// Puts each module's dependencies in the order in which it first takes a symbol of them; one that it takes none of
/// stays behind those.
pub(super) fn sort_dependencies(modules: &mut [(Module, Symbols)]) {
    let mut givers = HashMap::new();
    for (module, symbols) in &*modules {
        givers.extend(symbols.given.iter().map(|symbol| (symbol.clone(), module.name.clone())));
    }
    for (module, symbols) in modules {
        let mut first = HashMap::new();
        for (at, symbol) in symbols.taken.iter().enumerate() {
            if let Some(giver) = givers.get(symbol) {
                first.entry(giver.as_str()).or_insert(at);
            }
        }
        module.depends.sort_by_key(|name| first.get(name.as_str()).copied().unwrap_or(usize::MAX));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn module(name: &str, depends: &str, taken: &[&str], given: &[&str]) -> (Module, Symbols) {
        let owned = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
        let info = image::elf::parse_modinfo(format!("depends={depends}\0").as_bytes());
        (Module::of(&format!("{name}.ko"), &info), Symbols { taken: owned(taken), given: owned(given) })
    }

    #[test]
    fn dependencies_come_in_the_order_of_the_symbols_that_need_them() {
        let mut modules = [
            module("top", "a,none,b-c", &["printk", "of_b", "of_a", "of_b2"], &[]),
            module("a", "", &[], &["of_a"]),
            module("b-c", "", &[], &["of_b", "of_b2"]),
            module("none", "", &[], &[]),
        ];
        sort_dependencies(&mut modules);
        assert_eq!(modules[0].0.depends, ["b_c", "a", "none"]);
    }

    #[test]
    fn what_is_no_elf_file_is_an_error() {
        assert!(Symbols::of(b"#!/bin/sh\n").is_err());
    }
}
