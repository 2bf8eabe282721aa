//! Sections, found by name.

use goblin::container::Ctx;
use goblin::elf::{Header, SectionHeader, section_header};

use super::source::Source;
use super::{ElfError, ReadAt, malformed, read_header};

/// Section headers: `e_shnum` is 16 bits wide. Large modules have a few hundred.
const MAX_SECTIONS: u64 = 0xff00;
/// Section headers read at a time, to keep the buffer small.
const CHUNK: u64 = 64;

/// The bytes of the first section named `name`.
pub(super) fn read<S: ReadAt + ?Sized>(src: &S, name: &'static str, max: u64) -> Result<Vec<u8>, ElfError> {
    let file = Source::new(src)?;
    let (header, ctx) = read_header(&file)?;
    let section = find(&file, &header, ctx, name)?;
    if section.sh_size > max {
        return Err(ElfError::TooLarge { what: name, found: section.sh_size, limit: max });
    }
    file.exactly(name, section.sh_offset, section.sh_size)
}

fn find<S: ReadAt + ?Sized>(
    file: &Source<'_, S>,
    header: &Header,
    ctx: Ctx,
    wanted: &'static str,
) -> Result<SectionHeader, ElfError> {
    let what = "the section headers";
    let missing = || ElfError::NoSection { section: wanted };
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
            let name = file.up_to("a section name", name, wanted.len() as u64 + 1)?;
            if name.strip_suffix(b"\0") == Some(wanted.as_bytes()) {
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
