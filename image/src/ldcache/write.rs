//! Writing a cache.

use super::strings::StringTable;
use super::{
    BYTE_ORDER, ENTRY, EXTENSION_MAGIC, FormatError, HEADER, HWCAP_EXTENSION, MAGIC, MAX_LIBRARIES,
    OLD_ENTRY, OLD_HEADER, OLD_MAGIC, TAG_GENERATOR, TAG_HWCAPS, order,
};

/// One library that goes into a cache.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
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
    /// Bits of the hardware that its directory stands for, until glibc 2.36.
    pub hwcap: u64,
    /// Oldest kernel accepted, one byte each for the system and three numbers, until glibc 2.35.
    pub osversion: u32,
}

/// What stands where, which depends on the glibc.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Layout<'a> {
    /// The table of the libc5 days comes first.
    pub old_table: bool,
    /// The header tells the byte order.
    pub byte_order: bool,
    /// Strings share their ends, and this follows them.
    pub extensions: Option<Extensions<'a>>,
}

/// What stands behind the strings.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Extensions<'a> {
    /// Who makes the cache.
    pub generator: &'a str,
    /// The glibc-hwcaps subdirectories that were seen, empty ones too: `ldconfig` leaves their names in the
    /// string table.
    pub names: &'a [&'a [u8]],
}

/// Sorts `libraries` and writes the cache.
///
/// # Errors
/// [`FormatError::TooLarge`] when there are too many, or offsets would not fit into 32 bits.
pub fn encode(mut libraries: Vec<Library>, layout: &Layout<'_>) -> Result<Vec<u8>, FormatError> {
    if libraries.len() > MAX_LIBRARIES {
        let (what, found) = ("libraries", libraries.len());
        return Err(FormatError::TooLarge { what, found, limit: MAX_LIBRARIES });
    }
    libraries.sort_by(order::compare);
    let mut used: Vec<&[u8]> = libraries.iter().filter_map(|l| l.hwcaps.as_deref()).collect();
    used.sort_unstable();
    used.dedup();

    let own = libraries.iter().flat_map(|l| [l.key.as_slice(), l.value.as_slice()]);
    let strings = match layout.extensions {
        None => StringTable::separate(own),
        Some(more) => StringTable::shared(own.chain(used.iter().copied()).chain(more.names.iter().copied())),
    };
    let old = if layout.old_table { old_table(&libraries, &strings.places) } else { Vec::new() };
    let strings_at = HEADER + libraries.len() * ENTRY;
    let extensions_at = (old.len() + strings_at + strings.bytes.len()).next_multiple_of(4);
    let generator = layout.extensions.map_or("", |more| more.generator);
    let total = extensions_at + 64 + used.len() * 4 + generator.len();
    if u32::try_from(total).is_err() {
        return Err(FormatError::TooLarge { what: "bytes", found: total, limit: u32::MAX as usize });
    }

    let mut out = Vec::with_capacity(total);
    out.extend(&old);
    out.extend(MAGIC);
    out.extend([word(libraries.len()), word(strings.bytes.len())].concat());
    out.extend([if layout.byte_order { BYTE_ORDER } else { 0 }, 0, 0, 0]);
    out.extend(word(if layout.extensions.is_some() { extensions_at } else { 0 }));
    out.resize(old.len() + HEADER, 0);
    for (lib, places) in libraries.iter().zip(strings.places.chunks_exact(2)) {
        let index = lib.hwcaps.as_deref().and_then(|name| used.binary_search(&name).ok());
        let level = u64::from(lib.isa_level) << 32;
        let hwcap = index.map_or(lib.hwcap, |index| HWCAP_EXTENSION | level | index as u64);
        out.extend(lib.flags.to_ne_bytes());
        out.extend([word(strings_at + places[0]), word(strings_at + places[1])].concat());
        out.extend(lib.osversion.to_ne_bytes());
        out.extend(hwcap.to_ne_bytes());
    }
    out.extend(&strings.bytes);
    if layout.extensions.is_some() {
        out.resize(extensions_at, 0);
        let names = &strings.places[libraries.len() * 2..][..used.len()];
        extend(&mut out, generator, names.iter().map(|place| strings_at + place).collect());
    }
    Ok(out)
}

/// The table of the libc5 days. It knows no libraries for special hardware, and has an even number of entries,
/// so that what follows is aligned. Its offsets count from its end, as those of the new table do.
fn old_table(libraries: &[Library], places: &[usize]) -> Vec<u8> {
    let strings_at = HEADER + libraries.len() * ENTRY;
    let mut entries: Vec<[u8; OLD_ENTRY]> = Vec::new();
    for (lib, places) in libraries.iter().zip(places.chunks_exact(2)).filter(|(lib, _)| lib.hwcap == 0) {
        let mut entry = [0; OLD_ENTRY];
        entry[..4].copy_from_slice(&lib.flags.to_ne_bytes());
        entry[4..8].copy_from_slice(&word(strings_at + places[0]));
        entry[8..].copy_from_slice(&word(strings_at + places[1]));
        entries.push(entry);
    }
    if entries.len() % 2 == 1 {
        entries.extend(entries.last().copied());
    }
    let mut out = OLD_MAGIC.to_vec();
    out.resize(OLD_HEADER - 4, 0);
    out.extend(word(entries.len()));
    out.extend(entries.concat());
    out
}

/// Writes the extensions. `names` are the places of the glibc-hwcaps names in use.
fn extend(out: &mut Vec<u8>, generator: &str, names: Vec<usize>) {
    let sections = if names.is_empty() { 1 } else { 2 };
    let hwcaps_at = out.len() + 8 + sections * 16;
    let generator_at = hwcaps_at + names.len() * 4;
    out.extend([EXTENSION_MAGIC.to_ne_bytes(), word(sections)].concat());
    out.extend([word(TAG_GENERATOR as usize), word(0), word(generator_at), word(generator.len())].concat());
    if !names.is_empty() {
        out.extend([word(TAG_HWCAPS as usize), word(0), word(hwcaps_at), word(names.len() * 4)].concat());
    }
    out.extend(names.into_iter().flat_map(word));
    out.extend(generator.as_bytes());
}

/// A number as it stands in the file. The caller has checked that the whole file is below 4 GiB.
fn word(number: usize) -> [u8; 4] {
    u32::try_from(number).unwrap_or(u32::MAX).to_ne_bytes()
}
