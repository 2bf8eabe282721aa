//! Reads a library file exactly as `ldconfig` does (glibc, `elf/readlib.c` and `elf/readelflib.c`).
//!
//! The cache must be the same for damaged and hostile files too, so this follows `ldconfig` where a correct ELF reader would be
//! stricter: section headers and entry sizes are ignored, bytes after the end of the file read as zeros, and numbers are in
//! this machine's byte order.

use std::fs::File;

use super::contents::{Contents, Room};
use super::machine::{EM_386, EM_X86_64, Machine};
use super::rules::Rules;

/// Maximum number of program headers. Real libraries have about ten; `ldconfig` has no limit.
const MAX_SEGMENTS: u64 = 256;
/// Maximum number of entries in the dynamic section. Real libraries have about 40.
const MAX_DYNAMIC: usize = 1024;
/// Maximum size of all note segments in bytes.
const MAX_NOTES: u64 = 16 * 1024;

const PT_LOAD: u64 = 1;
const PT_DYNAMIC: u64 = 2;
const PT_INTERP: u64 = 3;
const PT_NOTE: u64 = 4;
const PT_GNU_PROPERTY: u64 = 0x6474_e553;
const DT_NEEDED: u64 = 1;
const DT_STRTAB: u64 = 5;
const DT_SONAME: u64 = 14;

/// `FLAG_ELF`: an ELF library of no known libc.
pub(super) const ELF: i32 = 1;
const LIBC5: i32 = 2;
const LIBC6: i32 = 3;

/// Facts about a library that the cache needs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Facts {
    pub flags: i32,
    /// `DT_SONAME`, unchanged: it may be empty or contain slashes.
    pub soname: Option<Vec<u8>>,
    pub osversion: u32,
    pub isa_level: u32,
}

/// What a file is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Content {
    /// A library.
    Library(Facts),
    /// A library in the format before ELF, with its flags. Its SONAME follows from its name ([`aout_soname`]).
    Aout(i32),
    /// An ELF file that `ldconfig` skips: not a library, for another machine, or damaged.
    OtherElf,
    /// Another file, for example a linker script.
    Other,
}

/// Reads a file of `size` bytes.
pub(super) fn read(file: &File, size: u64, room: &mut Room, machine: Machine, rules: &Rules) -> Content {
    let Some(file) = Contents::open(file, size, room) else { return Content::Other };
    let header = if machine == Machine::I386 { 52 } else { 64 };
    if size >= header && is_aout(file.first) {
        return Content::Aout(if rules.types { 0 } else { LIBC6 });
    }
    if size < 4 || !file.first.starts_with(b"\x7fELF") {
        return Content::Other;
    }
    if size < header { None } else { read_elf(file, machine, rules) }
        .map_or(Content::OtherElf, Content::Library)
}

fn read_elf(file: Contents, machine: Machine, rules: &Rules) -> Option<Facts> {
    let head = file.zeroed(0, 64)?;
    if head[16..18] != 3_u16.to_ne_bytes() {
        return None;
    }
    let wide = head[4] == 2;
    let known = if wide { Some(()) } else { (head[4] == 1).then_some(()) };
    let e_machine = u16::from_ne_bytes([head[18], head[19]]);
    let fixed = match (machine, e_machine) {
        (Machine::Aarch64, _) => {
            if wide {
                Some(0xa03)
            } else {
                arm_flags(&head)
            }
        }
        (_, EM_X86_64) => Some(if wide { 0x303 } else { 0x803 }),
        (_, EM_386) if !wide => None,
        _ => return None,
    };
    known?;
    let mut facts = Reader { file, wide, machine, rules }.read(&head)?;
    facts.flags = fixed.unwrap_or(facts.flags);
    Some(facts)
}

fn is_aout(head: &[u8]) -> bool {
    const ZMAGIC: u16 = 0o413;
    const QMAGIC: u16 = 0o314;
    let magic = u16::from_ne_bytes([head[0], head[1]]);
    magic == ZMAGIC || magic == QMAGIC
}

/// Returns the SONAME of an a.out library, which has none: its name up to the major number.
pub(super) fn aout_soname(name: &[u8]) -> Vec<u8> {
    let major = name.windows(4).position(|part| part == b".so.").map(|at| at + 4);
    let dot = major.and_then(|at| Some(at + name[at..].iter().position(|byte| *byte == b'.')?));
    name[..dot.unwrap_or(name.len())].to_vec()
}

/// Returns the float ABI of a 32-bit ARM library; `None` for an old ABI without this flag.
fn arm_flags(head: &[u8]) -> Option<i32> {
    let flags = u32::from_ne_bytes(head[36..40].try_into().ok()?);
    match flags {
        flags if flags & 0xff00_0000 != 0x0500_0000 => None,
        flags if flags & 0x400 != 0 => Some(0x903),
        flags if flags & 0x200 != 0 => Some(0xb03),
        _ => Some(LIBC6),
    }
}

struct Segment {
    kind: u64,
    offset: u64,
    address: u64,
    size: u64,
    align: u64,
}

struct Reader<'a> {
    file: Contents<'a>,
    wide: bool,
    machine: Machine,
    rules: &'a Rules,
}

impl Reader<'_> {
    fn read(&self, head: &[u8]) -> Option<Facts> {
        let mut facts = Facts { flags: if self.rules.types { ELF } else { LIBC6 }, ..Facts::default() };
        let segments = self.segments(head)?;
        let (mut dynamic, mut dynamic_size) = (0, 0);
        let mut notes = MAX_NOTES;
        for segment in &segments {
            let len = segment.size.min(notes);
            match segment.kind {
                // ldconfig keeps this offset in 32 bits.
                PT_DYNAMIC => (dynamic, dynamic_size) = (segment.offset & 0xffff_ffff, segment.size),
                PT_INTERP => {
                    let interp = self.file.string(self.file.check(segment.offset)?);
                    let known = interp.and_then(|interp| self.libc_of_loader(&interp));
                    facts.flags = known.filter(|_| self.rules.types).unwrap_or(facts.flags);
                }
                PT_NOTE if self.rules.osversion && facts.osversion == 0 => {
                    notes -= len;
                    facts.osversion = self.osversion(segment, len)?;
                }
                PT_GNU_PROPERTY if self.rules.glibc_hwcaps => {
                    notes -= len;
                    let level = self.isa_level(segment, len);
                    facts.isa_level = level.unwrap_or(facts.isa_level);
                }
                _ => {}
            }
        }
        if dynamic_size == 0 {
            return None;
        }
        let dynamic = self.dynamic(self.file.check(dynamic)?)?;
        let (_, strings) = dynamic.iter().find(|(tag, _)| *tag == DT_STRTAB)?;
        let strings = self.file.check(file_offset(&segments, *strings))?;
        self.names(&dynamic, strings, &mut facts)?;
        Some(facts)
    }

    fn segments(&self, head: &[u8]) -> Option<Vec<Segment>> {
        let (offset, count, size) = if self.wide {
            (number(head, 32, 8), number(head, 56, 2), 56)
        } else {
            (number(head, 28, 4), number(head, 44, 2), 32)
        };
        self.file.check(offset)?;
        if count > MAX_SEGMENTS {
            return None;
        }
        // Each header must begin in the file.
        let last = count.checked_sub(1).map_or(offset, |last| offset + last * size);
        self.file.check(last)?;
        let table = self.file.zeroed(offset, usize::try_from(count * size).ok()?)?;
        let segments = table.chunks_exact(usize::try_from(size).ok()?).map(|raw| {
            let field = |wide, narrow| {
                if self.wide { number(raw, wide, 8) } else { number(raw, narrow, 4) }
            };
            Segment {
                kind: number(raw, 0, 4),
                offset: field(8, 4),
                address: field(16, 8),
                size: field(32, 16),
                align: field(48, 28),
            }
        });
        Some(segments.collect())
    }

    /// Reads the dynamic section up to its end mark, wherever the segment ends.
    fn dynamic(&self, offset: u64) -> Option<Vec<(u64, u64)>> {
        const BLOCK: usize = 64;
        let word = if self.wide { 8 } else { 4 };
        let entry = 2 * word;
        let mut entries = Vec::new();
        while entries.len() < MAX_DYNAMIC {
            let at = offset + (entries.len() * entry) as u64;
            let block = self.file.zeroed(self.file.check(at)?, BLOCK * entry)?;
            for (raw, at) in block.chunks_exact(entry).zip((at..).step_by(entry)) {
                self.file.check(at)?;
                let tag = number(raw, 0, word);
                if tag == 0 {
                    return Some(entries);
                }
                entries.push((tag, number(raw, word, word)));
            }
        }
        None
    }

    /// Reads the SONAME, and until glibc 2.36 the libc that the library needs. The order of the entries matters.
    fn names(&self, dynamic: &[(u64, u64)], strings: u64, facts: &mut Facts) -> Option<()> {
        for (tag, value) in dynamic {
            let is_needed = *tag == DT_NEEDED && self.rules.types;
            if !is_needed && *tag != DT_SONAME {
                continue;
            }
            let offset = strings.wrapping_add(*value) & if self.wide { u64::MAX } else { 0xffff_ffff };
            let offset = self.file.check(offset)?;
            if *tag == DT_SONAME {
                facts.soname = Some(self.file.string(offset)?);
            } else if facts.flags == ELF {
                facts.flags = self.libc_of(&self.file.string(offset)?).unwrap_or(ELF);
            }
            if facts.soname.is_some() && facts.flags != ELF {
                break;
            }
        }
        Some(())
    }

    fn libc_of_loader(&self, interp: &[u8]) -> Option<i32> {
        let libc6: &[&[u8]] = match self.machine {
            Machine::X86_64 => &[
                b"/lib/ld-linux-x86-64.so.2",
                b"/lib/ld-linux.so.2",
                b"/libx32/ld-linux-x32.so.2",
                b"/lib64/ld-linux-x86-64.so.2",
            ],
            Machine::I386 => &[b"/lib/ld-linux.so.2"],
            Machine::Aarch64 => &[b"/lib/ld-linux.so.3", b"/lib/ld-linux-armhf.so.3"],
        };
        let libc5 = self.machine == Machine::I386 && interp == b"/lib/ld-linux.so.1";
        if libc5 { Some(LIBC5) } else { libc6.contains(&interp).then_some(LIBC6) }
    }

    fn libc_of(&self, needed: &[u8]) -> Option<i32> {
        match (self.machine, needed) {
            (_, b"libc.so.6" | b"libm.so.6") => Some(LIBC6),
            (Machine::I386, b"libc.so.5" | b"libm.so.5") => Some(LIBC5),
            _ => None,
        }
    }

    /// Returns the oldest kernel, from the ABI note in the first `len` bytes; 0 if there is none.
    fn osversion(&self, segment: &Segment, len: u64) -> Option<u32> {
        if len < 32 || !matches!(segment.align, 4 | 8) {
            return Some(0);
        }
        let notes = self.file.zeroed(segment.offset, usize::try_from(len).ok()?)?;
        let word = |at: usize| number(&notes, at, 4);
        let (mut at, mut left) = (0_usize, len);
        loop {
            let (name, desc) = (word(at), word(at + 4));
            if (name, desc, word(at + 8)) == (4, 16, 1) && notes.get(at + 12..at + 16) == Some(b"GNU\0") {
                let part = |n: usize| u32::try_from(word(at + 16 + 4 * n)).unwrap_or_default();
                return Some(part(0) << 24 | (part(1) & 0xff) << 16 | (part(2) & 0xff) << 8 | part(3) & 0xff);
            }
            let size = note_size(name, desc, segment.align);
            if left - 32 < size {
                return Some(0);
            }
            left -= size;
            at += usize::try_from(size).ok()?;
        }
    }

    /// Returns the x86-64 level that the first property note requires: its highest bit.
    fn isa_level(&self, segment: &Segment, len: u64) -> Option<u32> {
        let word = if self.wide { 8 } else { 4 };
        if segment.align != word || self.machine == Machine::Aarch64 {
            return None;
        }
        let notes = self.file.zeroed(segment.offset, usize::try_from(len).ok()?)?;
        let mut at = 0;
        while at + 12 < notes.len() {
            let (name, desc) = (number(&notes, at, 4), number(&notes, at + 4, 4));
            if name == 4 && number(&notes, at + 8, 4) == 5 && notes.get(at + 12..at + 16) == Some(b"GNU\0") {
                let body = notes.get(at + 16..).unwrap_or_default();
                let body = &body[..body.len().min(usize::try_from(desc).ok()?)];
                return if desc < 8 || desc % word != 0 { None } else { isa_property(body, word) };
            }
            at += usize::try_from(note_size(name, desc, segment.align)).ok()?;
        }
        None
    }
}

/// Walks the properties: type, size, value, each padded, in ascending order of their types.
fn isa_property(mut body: &[u8], word: u64) -> Option<u32> {
    const ISA_1_NEEDED: u64 = 0xc000_8002;
    let mut last = 0;
    while body.len() >= 8 {
        let (kind, len) = (number(body, 0, 4), number(body, 4, 4));
        let end = usize::try_from(len).ok()?.checked_add(8).filter(|end| *end <= body.len())?;
        if kind < last || kind > ISA_1_NEEDED {
            return None;
        }
        if kind == ISA_1_NEEDED {
            return if len == 4 { u32::try_from(number(body, 8, 4)).ok()?.checked_ilog2() } else { None };
        }
        last = kind;
        let padded = end.next_multiple_of(usize::try_from(word).ok()?);
        body = body.get(padded..).unwrap_or_default();
    }
    None
}

/// `ELF_NOTE_NEXT_OFFSET`.
fn note_size(name: u64, desc: u64, align: u64) -> u64 {
    ((12 + name).next_multiple_of(align) + desc).next_multiple_of(align)
}

/// Returns the file offset of the byte mapped at `address`; the address itself if nothing is mapped there.
fn file_offset(segments: &[Segment], address: u64) -> u64 {
    let mut loaded = segments.iter().filter(|segment| segment.kind == PT_LOAD);
    let segment = loaded.find(|s| address >= s.address && address - s.address < s.size);
    segment.map_or(address, |s| address.wrapping_sub(s.address).wrapping_add(s.offset))
}

/// Reads a number of `len` bytes at `at`; zero after the end.
fn number(bytes: &[u8], at: usize, len: usize) -> u64 {
    let part = at.checked_add(len).and_then(|end| bytes.get(at..end)).unwrap_or_default();
    let mut bytes = [0; 8];
    // A shorter number keeps its place: at the start in little endian, at the end in big endian.
    let start = if cfg!(target_endian = "big") { 8 - part.len() } else { 0 };
    bytes[start..start + part.len()].copy_from_slice(part);
    u64::from_ne_bytes(bytes)
}
