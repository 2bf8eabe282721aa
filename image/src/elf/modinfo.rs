//! The `.modinfo` section: what a kernel module says about itself (version, vermagic, depends, firmware,
//! alias).

use goblin::container::Ctx;
use goblin::elf::{Header, SectionHeader, section_header};

use super::source::Source;
use super::{ElfError, ReadAt, malformed, read_header};

/// Section headers: `e_shnum` is 16 bits wide. Large modules have a few hundred.
const MAX_SECTIONS: u64 = 0xff00;
/// Bytes of `.modinfo`: the largest in the kernel, thousands of aliases, is about 200 KiB.
const MAX_MODINFO: u64 = 1024 * 1024;
/// Section headers read at a time, to keep the buffer small.
const CHUNK: u64 = 64;

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
    let file = Source::new(src)?;
    let (header, ctx) = read_header(&file)?;
    let section = find_section(&file, &header, ctx)?;
    if section.sh_size > MAX_MODINFO {
        return Err(ElfError::TooLarge { what: SECTION, found: section.sh_size, limit: MAX_MODINFO });
    }
    Ok(parse_modinfo(&file.exactly(SECTION, section.sh_offset, section.sh_size)?))
}

fn find_section<S: ReadAt + ?Sized>(
    file: &Source<'_, S>,
    header: &Header,
    ctx: Ctx,
) -> Result<SectionHeader, ElfError> {
    let what = "the section headers";
    let missing = || ElfError::NoSection { section: SECTION };
    let size = SectionHeader::size(ctx) as u64;
    if header.e_shoff == 0 {
        return Err(missing());
    }
    if u64::from(header.e_shentsize) != size {
        let found = format!("expected entries of {size} bytes, found {}", header.e_shentsize);
        return Err(ElfError::Malformed { what, found });
    }
    let at = |index: u64| header.e_shoff.saturating_add(index * size);
    let first = sections(file, at(0), 1, ctx)?.into_iter().next().ok_or_else(missing)?;
    // With 0xff00 sections or more, the null section holds the true numbers.
    let count = if header.e_shnum == 0 { first.sh_size } else { u64::from(header.e_shnum) };
    let names = if u32::from(header.e_shstrndx) == section_header::SHN_XINDEX {
        u64::from(first.sh_link)
    } else {
        u64::from(header.e_shstrndx)
    };
    if count > MAX_SECTIONS {
        return Err(ElfError::TooLarge { what, found: count, limit: MAX_SECTIONS });
    }
    if names >= count {
        let found = format!("names are in section {names} of {count}");
        return Err(ElfError::Malformed { what, found });
    }
    let names = sections(file, at(names), 1, ctx)?.into_iter().next().ok_or_else(missing)?;
    let mut next = 0;
    while next < count {
        let chunk = CHUNK.min(count - next);
        for section in sections(file, at(next), chunk, ctx)? {
            let name = names.sh_offset.saturating_add(section.sh_name as u64);
            let name = file.up_to("a section name", name, SECTION.len() as u64 + 1)?;
            if name.strip_suffix(b"\0") == Some(SECTION.as_bytes()) {
                return Ok(section);
            }
        }
        next += chunk;
    }
    Err(missing())
}

fn sections<S: ReadAt + ?Sized>(
    file: &Source<'_, S>,
    offset: u64,
    count: u64,
    ctx: Ctx,
) -> Result<Vec<SectionHeader>, ElfError> {
    let what = "the section headers";
    let table = file.exactly(what, offset, count * SectionHeader::size(ctx) as u64)?;
    let count = usize::try_from(count).unwrap_or_default();
    SectionHeader::parse_from(&table, 0, count, ctx).map_err(|e| malformed(what, &e))
}
