//! The GPUs that a driver supports, from the list inside its own kernel module.
//!
//! Source: `CHIPS_RELEASED sChipsReleased[]` in src/nvidia/generated/g_nv_name_released.h of
//! NVIDIA's open modules: device id, subsystem ids, product name.

use crate::common::error::{Error, Result};
use goblin::elf::Elf;
use std::collections::BTreeMap;

const SYMBOL: &str = "sChipsReleased";
/// `sizeof(CHIPS_RELEASED)`: three 16-bit ids, padding, a pointer.
const ENTRY: usize = 16;
/// Offset of the pointer in it.
const NAME_AT: u64 = 8;
/// Maximum length of a product name.
const MAX_NAME: usize = 128;

/// One product.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chip {
    /// PCI device id.
    pub device: u16,
    /// Product name.
    pub name: String,
}

/// Reads the list in `nvidia.ko`, uncompressed.
pub fn chips(module: &[u8]) -> Result<Vec<Chip>> {
    read(module).filter(|chips| !chips.is_empty()).ok_or_else(|| {
        Error::new(format!("the nvidia module has no list of GPUs ({SYMBOL})"))
            .hint("its symbols were stripped, or it is not NVIDIA's open module: build without --gpu, which packs the firmware of all GPUs")
    })
}

fn read(module: &[u8]) -> Option<Vec<Chip>> {
    let elf = Elf::parse(module).ok()?;
    let symbol = elf.syms.iter().find(|symbol| elf.strtab.get_at(symbol.st_name) == Some(SYMBOL))?;
    let (section, start, size) = (symbol.st_shndx, symbol.st_value, symbol.st_size);
    let list = content(&elf, module, section)?;
    let list = list.get(usize::try_from(start).ok()?..)?.get(..usize::try_from(size).ok()?)?;
    let names = names(&elf, module, section, start..start + size);
    let entries = list.chunks_exact(ENTRY).enumerate().filter_map(|(at, entry)| {
        let device = u16::from_le_bytes([entry[0], entry[1]]);
        let name = names.get(&(start + (at * ENTRY) as u64 + NAME_AT))?;
        (device != 0).then(|| Chip { device, name: name.clone() })
    });
    Some(entries.collect())
}

/// The names that the pointers of the list will point to, by the offset of the pointer: a module is
/// not linked yet.
fn names(elf: &Elf, module: &[u8], section: usize, range: std::ops::Range<u64>) -> BTreeMap<u64, String> {
    let mut names = BTreeMap::new();
    for (at, relocations) in &elf.shdr_relocs {
        if elf.section_headers.get(*at).map(|header| header.sh_info as usize) != Some(section) {
            continue;
        }
        for relocation in relocations.iter().filter(|relocation| range.contains(&relocation.r_offset)) {
            let name = || {
                let target = elf.syms.get(relocation.r_sym)?;
                let offset = target.st_value.checked_add_signed(relocation.r_addend.unwrap_or(0))?;
                let text = content(elf, module, target.st_shndx)?.get(usize::try_from(offset).ok()?..)?;
                let end = text.iter().take(MAX_NAME).position(|byte| *byte == 0)?;
                std::str::from_utf8(&text[..end]).ok().map(str::to_owned)
            };
            names.extend(name().map(|name| (relocation.r_offset, name)));
        }
    }
    names
}

fn content<'a>(elf: &Elf, module: &'a [u8], section: usize) -> Option<&'a [u8]> {
    module.get(elf.section_headers.get(section)?.file_range()?)
}

/// Whether all these lower-case words are complete words of a product's name.
pub(super) fn has_words(name: &str, wanted: &[&str]) -> bool {
    let words: Vec<String> =
        name.split(|c: char| !c.is_ascii_alphanumeric()).map(str::to_ascii_lowercase).collect();
    wanted.iter().all(|word| words.iter().any(|found| found == word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn module_without_a_list_is_an_error_with_a_remedy() {
        for bytes in [&b""[..], b"\x7fELF", b"#!/bin/sh"] {
            assert!(chips(bytes).unwrap_err().remedy().unwrap().contains("without --gpu"));
        }
    }
}
