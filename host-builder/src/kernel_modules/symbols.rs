//! The symbols that a module imports and exports. depmod finds dependencies by them, in the order
//! of the symbol table; `depends:` has the same names in another order.

use super::module::Module;
use goblin::elf::Elf;
use std::collections::HashMap;

/// Prefix of the kernel's build for an exported symbol.
const EXPORT: &str = "__ksymtab_";

/// The symbols of one module.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Symbols {
    /// Imported, in the order of the table.
    pub(super) taken: Vec<String>,
    /// Exported.
    pub(super) given: Vec<String>,
}

impl Symbols {
    /// Reads the symbol table of an uncompressed module.
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

/// Sorts each module's dependencies by the first symbol that it imports from them. Dependencies
/// without such a symbol come last.
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
    fn dependencies_have_the_order_of_imported_symbols() {
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
    fn file_that_is_not_elf_is_an_error() {
        assert!(Symbols::of(b"#!/bin/sh\n").is_err());
    }
}
