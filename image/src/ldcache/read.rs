//! Reading a cache. It takes any bytes: the file comes from the image.

use super::{
    BYTE_ORDER, ENTRY, EXTENSION_MAGIC, FormatError, HEADER, HWCAP_EXTENSION, MAGIC, MAX_LIBRARIES,
    OLD_ENTRY, OLD_HEADER, OLD_MAGIC, TAG_GENERATOR, TAG_HWCAPS,
};

/// One entry read from a cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry<'a> {
    /// As in [`Library`](super::Library).
    pub flags: i32,
    /// Oldest kernel accepted. Since glibc 2.36 always 0.
    pub osversion: u32,
    /// The raw field.
    pub hwcap: u64,
    /// The glibc-hwcaps subdirectory that `hwcap` stands for.
    pub hwcaps: Option<&'a [u8]>,
    /// The name that programs ask for.
    pub key: &'a [u8],
    /// Path of the file.
    pub value: &'a [u8],
}

/// A cache that was read. It borrows the bytes: entries may share strings, and copies of a hostile cache
/// could be large.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CacheContent<'a> {
    /// In file order.
    pub entries: Vec<Entry<'a>>,
    /// Who made it, since glibc 2.33.
    pub generator: Option<&'a [u8]>,
    /// Entries of the table of the libc5 days, where there is one.
    pub old_entries: Option<usize>,
}

/// Reads a cache. Of a file with two tables it reads the newer one, as the loader does.
///
/// # Errors
/// [`FormatError`] when the bytes are no cache, or one that the loader would not use either.
pub fn read(bytes: &[u8]) -> Result<CacheContent<'_>, FormatError> {
    if bytes.starts_with(MAGIC) {
        return read_new(bytes, 0);
    }
    if !bytes.starts_with(OLD_MAGIC) {
        return Err(FormatError::Magic);
    }
    let table = table(bytes, OLD_HEADER, OLD_HEADER - 4, OLD_ENTRY)?;
    let end = OLD_HEADER + table.len();
    let count = table.len() / OLD_ENTRY;
    let new = end.next_multiple_of(8);
    if bytes.get(new..).is_some_and(|rest| rest.starts_with(MAGIC)) {
        return Ok(CacheContent { old_entries: Some(count), ..read_new(bytes, new)? });
    }
    let entries = table.chunks_exact(OLD_ENTRY).map(|raw| read_old_entry(bytes, end, raw));
    Ok(CacheContent {
        entries: entries.collect::<Result<_, _>>()?,
        generator: None,
        old_entries: Some(count),
    })
}

/// Reads the table at `start`. Its strings count from there, those of the extensions from the file's start.
fn read_new(bytes: &[u8], start: usize) -> Result<CacheContent<'_>, FormatError> {
    let byte_order = bytes.get(start + 28).copied().unwrap_or_default() & 3;
    if byte_order != 0 && byte_order != BYTE_ORDER {
        return Err(FormatError::ByteOrder { found: byte_order });
    }
    let table = table(bytes, start + HEADER, start + 20, ENTRY)?;
    let (generator, hwcaps) = read_extensions(bytes, start)?;
    let entries = table.chunks_exact(ENTRY).map(|raw| read_entry(bytes, start, raw, &hwcaps));
    Ok(CacheContent { entries: entries.collect::<Result<_, _>>()?, generator, old_entries: None })
}

/// The entries that begin at `at`; their number stands at `count_at`.
fn table(bytes: &[u8], at: usize, count_at: usize, entry: usize) -> Result<&[u8], FormatError> {
    let count = word_at(bytes, count_at).ok_or(FormatError::OutOfBounds { what: "the header" })?;
    let count = usize::try_from(count).ok().filter(|count| *count <= MAX_LIBRARIES);
    let rest = bytes.get(at..).unwrap_or_default();
    count
        .and_then(|count| rest.get(..count * entry))
        .ok_or(FormatError::OutOfBounds { what: "the entry table" })
}

fn read_old_entry<'a>(bytes: &'a [u8], base: usize, raw: &[u8]) -> Result<Entry<'a>, FormatError> {
    let field = |at| word_at(raw, at).unwrap_or_default();
    let string = |at, what| string_at(bytes, base, field(at)).ok_or(FormatError::OutOfBounds { what });
    Ok(Entry {
        flags: field(0).cast_signed(),
        osversion: 0,
        hwcap: 0,
        hwcaps: None,
        key: string(4, "a name")?,
        value: string(8, "a path")?,
    })
}

fn read_entry<'a>(
    bytes: &'a [u8],
    base: usize,
    raw: &[u8],
    hwcaps: &[&'a [u8]],
) -> Result<Entry<'a>, FormatError> {
    let field = |at| word_at(raw, at).unwrap_or_default();
    let string = |at, what| string_at(bytes, base, field(at)).ok_or(FormatError::OutOfBounds { what });
    let high = u64::from(field(if cfg!(target_endian = "big") { 16 } else { 20 }));
    let low = u64::from(field(if cfg!(target_endian = "big") { 20 } else { 16 }));
    let hwcap = high << 32 | low;
    let extended = hwcap >> 42 == HWCAP_EXTENSION >> 42;
    let index = usize::try_from(low).unwrap_or(usize::MAX);
    Ok(Entry {
        flags: field(0).cast_signed(),
        osversion: field(12),
        hwcap,
        hwcaps: if extended { hwcaps.get(index).copied() } else { None },
        key: string(4, "a name")?,
        value: string(8, "a path")?,
    })
}

/// The generator string and the names of the glibc-hwcaps subdirectories.
type Found<'a> = (Option<&'a [u8]>, Vec<&'a [u8]>);

fn read_extensions(bytes: &[u8], start: usize) -> Result<Found<'_>, FormatError> {
    let outside = |what| FormatError::OutOfBounds { what };
    let at = word_at(bytes, start + 32).unwrap_or_default() as usize;
    let (mut generator, mut hwcaps) = (None, Vec::new());
    if at == 0 {
        return Ok((generator, hwcaps));
    }
    let directory = bytes.get(at..).ok_or(outside("the extension directory"))?;
    let (magic, count) = (word_at(directory, 0), word_at(directory, 4));
    if magic != Some(EXTENSION_MAGIC) {
        return Err(outside("the extension directory"));
    }
    let sections = directory.get(8..).unwrap_or_default().chunks_exact(16);
    for section in sections.take(count.unwrap_or_default() as usize) {
        let field = |at| word_at(section, at).unwrap_or_default() as usize;
        let data = field(8).checked_add(field(12)).and_then(|end| bytes.get(field(8)..end));
        let data = data.ok_or(outside("an extension"))?;
        match word_at(section, 0) {
            Some(TAG_GENERATOR) => generator = Some(data),
            Some(TAG_HWCAPS) => {
                let words = data.chunks_exact(4).map(|raw| word_at(raw, 0).unwrap_or_default());
                let names = words.map(|word| string_at(bytes, 0, word)).collect::<Option<_>>();
                hwcaps = names.ok_or(outside("a glibc-hwcaps name"))?;
            }
            _ => {}
        }
    }
    Ok((generator, hwcaps))
}

fn word_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

/// The string at `base + at`, at most 4096 bytes (`PATH_MAX`).
fn string_at(bytes: &[u8], base: usize, at: u32) -> Option<&[u8]> {
    let rest = bytes.get(base.checked_add(usize::try_from(at).ok()?)?..)?;
    let end = rest.iter().take(4096).position(|b| *b == 0)?;
    Some(&rest[..end])
}
