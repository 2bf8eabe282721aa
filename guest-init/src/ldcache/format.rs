//! The file format of /etc/ld.so.cache, version `glibc-ld.so.cache1.1` (glibc, sysdeps/generic/dl-cache.h).

use super::strings::StringTable;
use super::{LdCacheError, MAX_LIBRARIES, order};

const MAGIC: &[u8; 20] = b"glibc-ld.so.cache1.1";
const HEADER: usize = 48;
const ENTRY: usize = 24;
/// The header flag that tells the byte order: 2 is little endian, 3 is big endian.
const BYTE_ORDER: u8 = if cfg!(target_endian = "big") { 3 } else { 2 };
const EXTENSION_MAGIC: u32 = 0xeaa4_2174;
const TAG_GENERATOR: u32 = 0;
const TAG_HWCAPS: u32 = 1;
/// Set in `hwcap` of a glibc-hwcaps entry. The low 32 bits are then an index, the ten bits at 32 the ISA
/// level.
const HWCAP_EXTENSION: u64 = 1 << 62;

/// One library that goes into a cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Library {
    /// The name that programs ask for.
    pub key: Vec<u8>,
    /// Path of the file.
    pub value: Vec<u8>,
    /// What kind of library: 0x303 is `x86_64`, 0xa03 is `aarch64`, 3 is i386.
    pub flags: i32,
    /// The x86-64 level that it needs, 0 for the baseline. Only written for glibc-hwcaps libraries.
    pub isa_level: u32,
    /// Name of its glibc-hwcaps subdirectory.
    pub hwcaps: Option<Vec<u8>>,
}

/// One entry read from a cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry<'a> {
    /// As in [`Library`].
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
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheContent<'a> {
    /// In file order.
    pub entries: Vec<Entry<'a>>,
    /// Who made it.
    pub generator: Option<&'a [u8]>,
}

/// Why bytes are no cache.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum FormatError {
    /// The magic is another one. The format before glibc 2.2 is not read.
    #[error("not a loader cache: expected it to begin with glibc-ld.so.cache1.1")]
    Magic,
    /// The cache was made for a machine of the other byte order.
    #[error("loader cache of another byte order: expected {BYTE_ORDER}, found {found}")]
    ByteOrder {
        /// The header flag.
        found: u8,
    },
    /// Something lies outside the file.
    #[error("malformed loader cache: {what} lies outside the file; run ldconfig in the image")]
    OutOfBounds {
        /// Which part.
        what: &'static str,
    },
}

/// Sorts `libraries` and writes the cache. `names` are the glibc-hwcaps subdirectories that were seen, empty
/// ones too: `ldconfig` leaves their names in the string table.
///
/// # Errors
/// [`LdCacheError::TooLarge`] when offsets would not fit into 32 bits.
pub fn encode(
    mut libraries: Vec<Library>,
    names: &[&[u8]],
    generator: &str,
) -> Result<Vec<u8>, LdCacheError> {
    libraries.sort_by(order::compare);
    let mut used: Vec<&[u8]> = libraries.iter().filter_map(|l| l.hwcaps.as_deref()).collect();
    used.sort_unstable();
    used.dedup();

    let entries_end = HEADER + libraries.len() * ENTRY;
    let own = libraries.iter().flat_map(|l| [l.key.as_slice(), l.value.as_slice()]);
    let table = StringTable::new(own.chain(used.iter().copied()).chain(names.iter().copied()).collect());
    let extension = (entries_end + table.bytes.len()).next_multiple_of(4);
    let total = extension + 64 + used.len() * 4 + generator.len();
    if u32::try_from(total).is_err() {
        let (what, limit) = ("bytes", u32::MAX as usize);
        return Err(LdCacheError::TooLarge { what, found: total, limit });
    }
    let at = |string: &[u8]| word(entries_end + table.offset(string));

    let mut out = Vec::with_capacity(total);
    out.extend(MAGIC);
    out.extend([word(libraries.len()), word(table.bytes.len())].concat());
    out.extend([BYTE_ORDER, 0, 0, 0]);
    out.extend(word(extension));
    out.resize(HEADER, 0);
    for lib in &libraries {
        let index = lib.hwcaps.as_deref().and_then(|name| used.binary_search(&name).ok());
        let hwcap = index.map_or(0, |i| HWCAP_EXTENSION | u64::from(lib.isa_level) << 32 | i as u64);
        out.extend(lib.flags.to_ne_bytes());
        out.extend([at(&lib.key), at(&lib.value), word(0)].concat());
        out.extend(hwcap.to_ne_bytes());
    }
    out.extend(&table.bytes);
    out.resize(extension, 0);
    let sections = if used.is_empty() { 1 } else { 2 };
    let hwcaps_at = extension + 8 + sections * 16;
    let generator_at = hwcaps_at + used.len() * 4;
    out.extend([EXTENSION_MAGIC.to_ne_bytes(), word(sections)].concat());
    out.extend([word(TAG_GENERATOR as usize), word(0), word(generator_at), word(generator.len())].concat());
    if !used.is_empty() {
        out.extend([word(TAG_HWCAPS as usize), word(0), word(hwcaps_at), word(used.len() * 4)].concat());
    }
    out.extend(used.iter().flat_map(|name| at(name)));
    out.extend(generator.as_bytes());
    Ok(out)
}

/// A number as it stands in the file. The caller has checked that the whole file is below 4 GiB.
fn word(number: usize) -> [u8; 4] {
    u32::try_from(number).unwrap_or(u32::MAX).to_ne_bytes()
}

/// Reads a cache. Takes any bytes: the file comes from the image.
///
/// # Errors
/// [`FormatError`] when they are no cache, or one that the loader would not use either.
pub fn read(bytes: &[u8]) -> Result<CacheContent<'_>, FormatError> {
    if !bytes.starts_with(MAGIC) {
        return Err(FormatError::Magic);
    }
    let header = FormatError::OutOfBounds { what: "the header" };
    let count = word_at(bytes, 20).ok_or(header)?;
    let byte_order = bytes.get(28).copied().unwrap_or_default() & 3;
    if byte_order != 0 && byte_order != BYTE_ORDER {
        return Err(FormatError::ByteOrder { found: byte_order });
    }
    let table = bytes.get(HEADER..).unwrap_or_default();
    let table = usize::try_from(count)
        .ok()
        .filter(|n| *n <= MAX_LIBRARIES)
        .and_then(|n| n.checked_mul(ENTRY))
        .and_then(|len| table.get(..len))
        .ok_or(FormatError::OutOfBounds { what: "the entry table" })?;
    let (generator, hwcaps) = read_extensions(bytes)?;
    let entries =
        table.chunks_exact(ENTRY).map(|raw| read_entry(bytes, raw, &hwcaps)).collect::<Result<_, _>>()?;
    Ok(CacheContent { entries, generator })
}

fn read_entry<'a>(bytes: &'a [u8], raw: &[u8], hwcaps: &[&'a [u8]]) -> Result<Entry<'a>, FormatError> {
    let field = |at| word_at(raw, at).unwrap_or_default();
    let string = |at, what| string_at(bytes, field(at)).ok_or(FormatError::OutOfBounds { what });
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
type Extensions<'a> = (Option<&'a [u8]>, Vec<&'a [u8]>);

fn read_extensions(bytes: &[u8]) -> Result<Extensions<'_>, FormatError> {
    let outside = |what| FormatError::OutOfBounds { what };
    let at = word_at(bytes, 32).unwrap_or_default() as usize;
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
                let names =
                    data.chunks_exact(4).map(|raw| string_at(bytes, word_at(raw, 0).unwrap_or_default()));
                hwcaps = names.collect::<Option<_>>().ok_or(outside("a glibc-hwcaps name"))?;
            }
            _ => {}
        }
    }
    Ok((generator, hwcaps))
}

fn word_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

/// The string at `at`, at most 4096 bytes (`PATH_MAX`).
fn string_at(bytes: &[u8], at: u32) -> Option<&[u8]> {
    let rest = bytes.get(usize::try_from(at).ok()?..)?;
    let end = rest.iter().take(4096).position(|b| *b == 0)?;
    Some(&rest[..end])
}
