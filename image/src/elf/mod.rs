//! Reads what the loader, `ldconfig` and `depmod` read from an ELF file, and nothing else.
//!
//! Driver libraries are hundreds of megabytes and the container root is hostile: it may hand out a file that
//! is cut short, or that shrinks while it is read. So nothing is mapped and no file is read whole. A handful
//! of small reads at fixed places is enough, and each of them has a limit. The structures are goblin's.

mod compat;
mod glibc;
mod modinfo;
mod section;
mod signature;
mod source;

pub use self::compat::{Compat, cuda_compat};
pub use self::glibc::glibc_needed;
pub use self::modinfo::{Modinfo, modinfo, parse_modinfo};
pub use self::signature::{length_without_signature, signature_trailer};
pub use self::source::ReadAt;
pub use goblin::elf::header::ET_DYN;

use std::io;

use goblin::container::{Container, Ctx};
use goblin::elf::{Dynamic, Header, ProgramHeader, dynamic, header, program_header};

use self::source::Source;

/// Program headers: real libraries have about ten.
const MAX_PROGRAM_HEADERS: u64 = 512;
/// Bytes of the dynamic section: real libraries have about 600.
const MAX_DYNAMIC: u64 = 16 * 1024;
/// `DT_NEEDED` entries: the largest programs have about 200.
const MAX_NEEDED: usize = 1024;
/// Bytes of all note segments: real libraries have about 200.
const MAX_NOTES: u64 = 16 * 1024;
/// Bytes of one string, its NUL included: `PATH_MAX`.
const MAX_STRING: u64 = 4096;

/// Why a file could not be read as ELF.
#[derive(Debug, thiserror::Error)]
pub enum ElfError {
    /// The file does not begin with the ELF magic: it is something else, which is often no error at all.
    #[error("not an ELF file: expected the magic 7f 45 4c 46, found {found:02x?}")]
    NotElf {
        /// The first bytes of the file, four at most.
        found: Vec<u8>,
    },
    /// The file ends before a part that its headers promise.
    #[error(
        "truncated: {what} needs {len} bytes at offset {offset}, but the file has {size}; download the file again"
    )]
    Truncated {
        /// Which part.
        what: &'static str,
        /// Where the part begins.
        offset: u64,
        /// How long it is.
        len: u64,
        /// Size of the file in bytes.
        size: u64,
    },
    /// A header says something that cannot be.
    #[error("malformed: {what}: {found}; download the file again")]
    Malformed {
        /// Which part.
        what: &'static str,
        /// What it says.
        found: String,
    },
    /// A count or size is beyond anything a real library has.
    #[error("too large: {what} is {found}, expected at most {limit}")]
    TooLarge {
        /// Which part.
        what: &'static str,
        /// What the file says.
        found: u64,
        /// What we accept.
        limit: u64,
    },
    /// The file has no such section.
    #[error("no section {section}")]
    NoSection {
        /// Name of the section.
        section: &'static str,
    },
    /// The read itself failed.
    #[error("cannot read {what}")]
    Io {
        /// Which part was being read.
        what: &'static str,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// Width of addresses (`EI_CLASS`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// `ELFCLASS32`.
    Elf32,
    /// `ELFCLASS64`.
    Elf64,
}

/// Byte order (`EI_DATA`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Endianness {
    /// `ELFDATA2LSB`.
    Little,
    /// `ELFDATA2MSB`.
    Big,
}

/// The `NT_GNU_ABI_TAG` note: the oldest kernel that the file's libc accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AbiTag {
    /// Operating system: 0 is Linux.
    pub os: u32,
    /// Major, minor and patch number of that kernel.
    pub version: [u32; 3],
}

/// What an ELF file says about itself. Names are bytes: nothing promises that they are UTF-8.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Elf {
    /// Width of addresses.
    pub class: Class,
    /// Byte order.
    pub endianness: Endianness,
    /// `e_machine`: 62 is `x86_64`, 183 is `aarch64`, 3 is i386.
    pub machine: u16,
    /// `e_type`: 3 (`ET_DYN`) is a shared object or a position-independent program, 1 (`ET_REL`) a kernel
    /// module.
    pub e_type: u16,
    /// `e_flags`: the float ABI on some machines.
    pub e_flags: u32,
    /// `EI_OSABI`.
    pub osabi: u8,
    /// Whether there is a dynamic section with a string table. Without one, the five fields below are empty.
    pub dynamic: bool,
    /// `DT_SONAME`: the name that programs ask the loader for.
    pub soname: Option<Vec<u8>>,
    /// `DT_NEEDED`, in order.
    pub needed: Vec<Vec<u8>>,
    /// `DT_RUNPATH`.
    pub runpath: Option<Vec<u8>>,
    /// `DT_RPATH`.
    pub rpath: Option<Vec<u8>>,
    /// `DT_FLAGS_1`, 0 when absent.
    pub flags_1: u64,
    /// `PT_INTERP`: path of the loader, present in programs (and in libc itself).
    pub interp: Option<Vec<u8>>,
    /// `NT_GNU_ABI_TAG`.
    pub abi_tag: Option<AbiTag>,
    /// `GNU_PROPERTY_X86_ISA_1_NEEDED`: bit n set means that x86-64-v(n+1) is needed. 0 when absent.
    pub x86_isa_needed: u32,
}

/// Reads the headers, the dynamic section and the notes of `src`.
///
/// # Errors
/// [`ElfError::NotElf`] when the magic is missing; any other variant when the file is ELF but not readable as
/// such.
pub fn read<S: ReadAt + ?Sized>(src: &S) -> Result<Elf, ElfError> {
    let file = Source::new(src)?;
    let (header, ctx) = read_header(&file)?;
    let segments = read_program_headers(&file, &header, ctx)?;
    let mut elf = Elf {
        class: if ctx.is_big() { Class::Elf64 } else { Class::Elf32 },
        endianness: if ctx.is_little_endian() { Endianness::Little } else { Endianness::Big },
        machine: header.e_machine,
        e_type: header.e_type,
        e_flags: header.e_flags,
        osabi: header.e_ident[header::EI_OSABI],
        dynamic: false,
        soname: None,
        needed: Vec::new(),
        runpath: None,
        rpath: None,
        flags_1: 0,
        interp: None,
        abi_tag: None,
        x86_isa_needed: 0,
    };
    let mut notes = MAX_NOTES;
    for segment in &segments {
        match segment.p_type {
            // As in the kernel, the first counts.
            program_header::PT_INTERP if elf.interp.is_none() => {
                elf.interp = Some(file.string("PT_INTERP", segment.p_offset)?);
            }
            program_header::PT_NOTE | program_header::PT_GNU_PROPERTY => {
                let len = segment.p_filesz.min(notes);
                notes -= len;
                read_notes(&file, segment, len, ctx, &mut elf)?;
            }
            _ => {}
        }
    }
    read_dynamic(&file, &segments, ctx, &mut elf)?;
    Ok(elf)
}

/// Reads and checks the file header. The context tells goblin the class and the byte order.
fn read_header<S: ReadAt + ?Sized>(file: &Source<'_, S>) -> Result<(Header, Ctx), ElfError> {
    let head = file.up_to("the ELF header", 0, header::header64::SIZEOF_EHDR as u64)?;
    if !head.starts_with(header::ELFMAG) {
        return Err(ElfError::NotElf { found: head.into_iter().take(header::SELFMAG).collect() });
    }
    let class = head.get(header::EI_CLASS).copied().unwrap_or_default();
    let (container, len) = match class {
        header::ELFCLASS32 => (Container::Little, header::header32::SIZEOF_EHDR),
        header::ELFCLASS64 => (Container::Big, header::header64::SIZEOF_EHDR),
        other => {
            let found = format!("expected class 1 (32 bit) or 2 (64 bit), found {other}");
            return Err(ElfError::Malformed { what: "the ELF header", found });
        }
    };
    if head.len() < len {
        let len = len as u64;
        return Err(ElfError::Truncated { what: "the ELF header", offset: 0, len, size: file.size() });
    }
    let header = goblin::elf::Elf::parse_header(&head).map_err(|e| malformed("the ELF header", &e))?;
    let endianness = header.endianness().map_err(|e| malformed("the ELF header", &e))?;
    Ok((header, Ctx::new(container, endianness)))
}

fn read_program_headers<S: ReadAt + ?Sized>(
    file: &Source<'_, S>,
    header: &Header,
    ctx: Ctx,
) -> Result<Vec<ProgramHeader>, ElfError> {
    let what = "the program headers";
    let count = u64::from(header.e_phnum);
    if count == 0 {
        return Ok(Vec::new());
    }
    if count > MAX_PROGRAM_HEADERS {
        return Err(ElfError::TooLarge { what, found: count, limit: MAX_PROGRAM_HEADERS });
    }
    let size = ProgramHeader::size(ctx);
    if usize::from(header.e_phentsize) != size {
        let found = format!("expected entries of {size} bytes, found {}", header.e_phentsize);
        return Err(ElfError::Malformed { what, found });
    }
    let table = file.exactly(what, header.e_phoff, count * size as u64)?;
    ProgramHeader::parse(&table, 0, usize::from(header.e_phnum), ctx).map_err(|e| malformed(what, &e))
}

/// Fills in what the dynamic section says.
fn read_dynamic<S: ReadAt + ?Sized>(
    file: &Source<'_, S>,
    segments: &[ProgramHeader],
    ctx: Ctx,
    elf: &mut Elf,
) -> Result<(), ElfError> {
    let Some((entries, strings)) = dynamic_entries(file, segments, ctx)? else { return Ok(()) };
    elf.dynamic = true;
    for entry in &entries {
        let string = |what| file.string(what, strings.saturating_add(entry.d_val));
        match entry.d_tag {
            dynamic::DT_SONAME if elf.soname.is_none() => elf.soname = Some(string("DT_SONAME")?),
            dynamic::DT_RUNPATH if elf.runpath.is_none() => elf.runpath = Some(string("DT_RUNPATH")?),
            dynamic::DT_RPATH if elf.rpath.is_none() => elf.rpath = Some(string("DT_RPATH")?),
            dynamic::DT_FLAGS_1 => elf.flags_1 = entry.d_val,
            dynamic::DT_NEEDED if elf.needed.len() == MAX_NEEDED => {
                let (found, limit) = (MAX_NEEDED as u64 + 1, MAX_NEEDED as u64);
                return Err(ElfError::TooLarge { what: "the list of DT_NEEDED", found, limit });
            }
            dynamic::DT_NEEDED => elf.needed.push(string("DT_NEEDED")?),
            _ => {}
        }
    }
    Ok(())
}

/// The entries of the dynamic section, and where in the file the strings are that they name; none in a static program.
fn dynamic_entries<S: ReadAt + ?Sized>(
    file: &Source<'_, S>,
    segments: &[ProgramHeader],
    ctx: Ctx,
) -> Result<Option<(Vec<dynamic::Dyn>, u64)>, ElfError> {
    let what = "the dynamic section";
    let Some(segment) = segments.iter().find(|s| s.p_type == program_header::PT_DYNAMIC) else {
        return Ok(None);
    };
    if segment.p_filesz > MAX_DYNAMIC {
        return Err(ElfError::TooLarge { what, found: segment.p_filesz, limit: MAX_DYNAMIC });
    }
    let table = file.exactly(what, segment.p_offset, segment.p_filesz)?;
    // goblin looks the segment up in the bytes of the whole file; we have only read the segment.
    let here = ProgramHeader { p_offset: 0, ..segment.clone() };
    let parsed = Dynamic::parse(&table, &[here], ctx).map_err(|e| malformed(what, &e))?;
    let entries = parsed.map(|d| d.dyns).unwrap_or_default();
    let Some(strtab) = entries.iter().find(|d| d.d_tag == dynamic::DT_STRTAB) else {
        return Ok(None);
    };
    let strings = file_offset(segments, strtab.d_val).ok_or_else(|| ElfError::Malformed {
        what: "DT_STRTAB",
        found: format!("address {:#x} is not in a PT_LOAD segment", strtab.d_val),
    })?;
    Ok(Some((entries, strings)))
}

/// Where in the file the byte lies that the loader would map at `address`.
fn file_offset(segments: &[ProgramHeader], address: u64) -> Option<u64> {
    segments.iter().filter(|s| s.p_type == program_header::PT_LOAD).find_map(|s| {
        let inside = address.checked_sub(s.p_vaddr)?;
        if inside < s.p_filesz { s.p_offset.checked_add(inside) } else { None }
    })
}

const NT_GNU_ABI_TAG: u32 = 1;
const NT_GNU_PROPERTY_TYPE_0: u32 = 5;
const GNU_PROPERTY_X86_ISA_1_NEEDED: u32 = 0xc000_8002;

/// Looks through the first `len` bytes of a note segment for the notes we know. A damaged note ends the walk without an error, as in
/// `ldconfig`: notes only refine what is known.
fn read_notes<S: ReadAt + ?Sized>(
    file: &Source<'_, S>,
    segment: &ProgramHeader,
    len: u64,
    ctx: Ctx,
    elf: &mut Elf,
) -> Result<(), ElfError> {
    let notes = file.up_to("a note segment", segment.p_offset, len)?;
    let align = if segment.p_align == 8 { 8 } else { 4 };
    let word = |at: usize| word_at(&notes, at, ctx);
    let mut at = 0_usize;
    while let (Some(name_len), Some(len), Some(kind)) = (word(at), word(at + 4), word(at + 8)) {
        let (name_len, len) = (name_len as usize, len as usize);
        let name_at = at + 12;
        let Some(body_at) = name_at.checked_add(name_len).map(|end| end.next_multiple_of(align)) else {
            break;
        };
        let Some(end) = body_at.checked_add(len) else { break };
        let gnu = name_len == 4 && notes.get(name_at..name_at + 4) == Some(b"GNU\0");
        if gnu && kind == NT_GNU_ABI_TAG && len == 16 && elf.abi_tag.is_none() {
            elf.abi_tag = abi_tag(&notes, body_at, ctx);
        } else if gnu && kind == NT_GNU_PROPERTY_TYPE_0 && segment.p_type == program_header::PT_GNU_PROPERTY {
            let body = notes.get(body_at..end).unwrap_or_default();
            elf.x86_isa_needed |= x86_isa_needed(body, ctx);
        }
        at = end.next_multiple_of(align);
    }
    Ok(())
}

fn abi_tag(notes: &[u8], at: usize, ctx: Ctx) -> Option<AbiTag> {
    let word = |n: usize| word_at(notes, at + 4 * n, ctx);
    Some(AbiTag { os: word(0)?, version: [word(1)?, word(2)?, word(3)?] })
}

/// Walks the properties of one `NT_GNU_PROPERTY_TYPE_0` note: type, size, value, padded to the word size.
fn x86_isa_needed(properties: &[u8], ctx: Ctx) -> u32 {
    let align = if ctx.is_big() { 8 } else { 4 };
    let mut at = 0_usize;
    let mut needed = 0;
    while let (Some(kind), Some(len)) = (word_at(properties, at, ctx), word_at(properties, at + 4, ctx)) {
        if kind == GNU_PROPERTY_X86_ISA_1_NEEDED && len == 4 {
            needed |= word_at(properties, at + 8, ctx).unwrap_or_default();
        }
        let Some(next) = (at + 8).checked_add(len as usize) else { break };
        at = next.next_multiple_of(align);
    }
    needed
}

fn word_at(bytes: &[u8], at: usize, ctx: Ctx) -> Option<u32> {
    let word: [u8; 4] = bytes.get(at..at.checked_add(4)?)?.try_into().ok()?;
    Some(if ctx.is_little_endian() { u32::from_le_bytes(word) } else { u32::from_be_bytes(word) })
}

fn malformed(what: &'static str, error: &goblin::error::Error) -> ElfError {
    ElfError::Malformed { what, found: error.to_string() }
}

#[cfg(test)]
mod tests;
