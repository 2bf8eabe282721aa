//! The `.modinfo` section: what a kernel module says about itself (version, vermagic, depends, firmware,
//! alias).

use super::section;
use super::{ElfError, ReadAt};

/// Bytes of `.modinfo`: the largest in the kernel, thousands of aliases, is about 200 KiB.
const MAX_MODINFO: u64 = 1024 * 1024;
const SECTION: &str = ".modinfo";

/// The `key=value` pairs of a module, in file order. Keys repeat (`alias`, `firmware`, `parm`).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Modinfo(pub Vec<(String, String)>);

impl Modinfo {
    /// The first value of `key`.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.iter().find(|(k, _)| k == key).map(|(_, v)| v.as_str())
    }

    /// Every value of `key`, in order.
    pub fn all<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a str> + 'a {
        self.0.iter().filter(move |(k, _)| k == key).map(|(_, v)| v.as_str())
    }
}

/// Parses NUL-separated `key=value` text. Text without `=` becomes a key with an empty value, bytes that are
/// not UTF-8 are replaced. `modules.builtin.modinfo` has the same form, with `module.key` as the key.
pub fn parse_modinfo(bytes: &[u8]) -> Modinfo {
    let pair = |text: &[u8]| {
        let text = String::from_utf8_lossy(text);
        let (key, value) = text.split_once('=').unwrap_or((&text, ""));
        (key.to_owned(), value.to_owned())
    };
    Modinfo(bytes.split(|b| *b == 0).filter(|t| !t.is_empty()).map(pair).collect())
}

/// Reads the `.modinfo` section of an uncompressed kernel module.
///
/// # Errors
/// [`ElfError::NotElf`] for a compressed module or anything else that is not ELF, [`ElfError::NoSection`] for
/// an ELF file that is no module.
pub fn modinfo<S: ReadAt + ?Sized>(src: &S) -> Result<Modinfo, ElfError> {
    Ok(parse_modinfo(&section::read(src, SECTION, MAX_MODINFO)?))
}
