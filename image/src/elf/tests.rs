use proptest::prelude::*;

use super::*;

/// A library as small as the format allows: one `PT_LOAD` over everything, mapped at 0x1000, a dynamic
/// section, notes.
fn library(soname: &str, needed: &[&str]) -> Vec<u8> {
    const LOAD: u64 = 0x1000;
    let mut strings = vec![0_u8];
    let mut dynamic = Vec::new();
    let mut name = |text: &str| {
        let at = strings.len() as u64;
        strings.extend(text.bytes().chain([0]));
        at
    };
    dynamic.push((dynamic::DT_SONAME, name(soname)));
    for lib in needed {
        dynamic.push((dynamic::DT_NEEDED, name(lib)));
    }
    dynamic.push((dynamic::DT_RUNPATH, name("$ORIGIN/lib")));
    dynamic.push((dynamic::DT_FLAGS_1, 0x0800_0000));

    let mut notes = Vec::new();
    note(&mut notes, NT_GNU_ABI_TAG, &[0, 3, 2, 0].map(u32::to_le_bytes).concat());
    let mut properties = Vec::new();
    note(
        &mut properties,
        NT_GNU_PROPERTY_TYPE_0,
        &[GNU_PROPERTY_X86_ISA_1_NEEDED, 4, 0b110, 0].map(u32::to_le_bytes).concat(),
    );

    let headers = 64 + 4 * 56_u64;
    let notes_at = headers;
    let properties_at = notes_at + notes.len() as u64;
    let strings_at = properties_at + properties.len() as u64;
    let dynamic_at = (strings_at + strings.len() as u64).next_multiple_of(8);
    let dynamic_len = (dynamic.len() as u64 + 2) * 16;
    let end = dynamic_at + dynamic_len;

    let mut out = vec![0; 64];
    out[..16].copy_from_slice(b"\x7fELF\x02\x01\x01\x00\0\0\0\0\0\0\0\0");
    out[16..18].copy_from_slice(&3_u16.to_le_bytes());
    out[18..20].copy_from_slice(&62_u16.to_le_bytes());
    out[20..24].copy_from_slice(&1_u32.to_le_bytes());
    out[32..40].copy_from_slice(&64_u64.to_le_bytes());
    out[52..54].copy_from_slice(&64_u16.to_le_bytes());
    out[54..56].copy_from_slice(&56_u16.to_le_bytes());
    out[56..58].copy_from_slice(&4_u16.to_le_bytes());
    for (kind, at, len) in [
        (program_header::PT_LOAD, 0, end),
        (program_header::PT_NOTE, notes_at, notes.len() as u64),
        (program_header::PT_GNU_PROPERTY, properties_at, properties.len() as u64),
        (program_header::PT_DYNAMIC, dynamic_at, dynamic_len),
    ] {
        out.extend(kind.to_le_bytes());
        out.extend(4_u32.to_le_bytes());
        for word in [at, at + LOAD, at + LOAD, len, len, 4] {
            out.extend(word.to_le_bytes());
        }
    }
    out.extend(notes);
    out.extend(properties);
    out.extend(strings);
    out.resize(usize::try_from(dynamic_at).unwrap(), 0);
    dynamic.push((dynamic::DT_STRTAB, strings_at + LOAD));
    dynamic.push((dynamic::DT_NULL, 0));
    out.extend(dynamic.iter().flat_map(|(tag, value)| [tag.to_le_bytes(), value.to_le_bytes()].concat()));
    out
}

fn note(notes: &mut Vec<u8>, kind: u32, body: &[u8]) {
    notes.extend([4, u32::try_from(body.len()).unwrap(), kind].map(u32::to_le_bytes).concat());
    notes.extend(b"GNU\0");
    notes.extend(body);
}

/// A relocatable file with a `.modinfo` section.
fn module(text: &[u8]) -> Vec<u8> {
    let names = b"\0.modinfo\0.shstrtab\0";
    let text_at = 64_u64;
    let names_at = text_at + text.len() as u64;
    let table_at = names_at + names.len() as u64;
    let mut out = vec![0; 64];
    out[..8].copy_from_slice(b"\x7fELF\x02\x01\x01\x00");
    out[16..18].copy_from_slice(&1_u16.to_le_bytes());
    out[40..48].copy_from_slice(&table_at.to_le_bytes());
    out[58..60].copy_from_slice(&64_u16.to_le_bytes());
    out[60..62].copy_from_slice(&3_u16.to_le_bytes());
    out[62..64].copy_from_slice(&2_u16.to_le_bytes());
    out.extend(text);
    out.extend(names);
    for (name, at, len) in
        [(0_u32, 0, 0), (1, text_at, text.len() as u64), (10, names_at, names.len() as u64)]
    {
        let mut header = [0_u8; 64];
        header[..4].copy_from_slice(&name.to_le_bytes());
        header[24..32].copy_from_slice(&at.to_le_bytes());
        header[32..40].copy_from_slice(&len.to_le_bytes());
        out.extend(header);
    }
    out
}

#[test]
fn reads_names_and_notes() {
    let elf = read(&library("libcuda.so.1", &["libc.so.6", "libm.so.6"])).unwrap();
    assert_eq!(elf.class, Class::Elf64);
    assert_eq!((elf.e_type, elf.machine), (3, 62));
    assert_eq!(elf.soname.as_deref(), Some(&b"libcuda.so.1"[..]));
    assert_eq!(elf.needed, [b"libc.so.6".to_vec(), b"libm.so.6".to_vec()]);
    assert_eq!(elf.runpath.as_deref(), Some(&b"$ORIGIN/lib"[..]));
    assert_eq!((elf.rpath, elf.interp), (None, None));
    assert_eq!(elf.flags_1, 0x0800_0000);
    assert_eq!(elf.abi_tag, Some(AbiTag { os: 0, version: [3, 2, 0] }));
    assert_eq!(elf.x86_isa_needed, 0b110);
}

#[test]
fn reads_the_running_program() {
    let elf = read(&std::fs::File::open("/proc/self/exe").unwrap()).unwrap();
    assert_eq!(elf.e_type, header::ET_DYN);
    assert!(elf.dynamic);
}

#[test]
fn text_is_not_elf() {
    assert!(matches!(read(&b"GROUP ( /lib/libc.so.6 )"[..]), Err(ElfError::NotElf { .. })));
    assert!(matches!(read(&b""[..]), Err(ElfError::NotElf { .. })));
    assert!(matches!(modinfo(&b"\xfd7zXZ\0"[..]), Err(ElfError::NotElf { .. })));
}

#[test]
fn a_cut_file_is_truncated_not_foreign() {
    let whole = library("libx.so.1", &[]);
    assert!(matches!(read(&whole[..40]), Err(ElfError::Truncated { .. })));
    assert!(matches!(read(&whole[..whole.len() - 8]), Err(ElfError::Truncated { .. })));
}

#[test]
fn a_huge_dynamic_section_is_refused_before_it_is_read() {
    let mut file = library("libx.so.1", &[]);
    let filesz = 64 + 3 * 56 + 32;
    file[filesz..filesz + 8].copy_from_slice(&u64::MAX.to_le_bytes());
    assert!(matches!(read(&file), Err(ElfError::TooLarge { .. })));
}

#[test]
fn modinfo_keeps_repeated_keys_in_order() {
    let info =
        modinfo(&module(b"version=550.163.01\0firmware=a.bin\0\0firmware=b.bin\0vermagic=6.12 SMP \0"))
            .unwrap();
    assert_eq!(info.get("version"), Some("550.163.01"));
    assert_eq!(info.all("firmware").collect::<Vec<_>>(), ["a.bin", "b.bin"]);
    assert_eq!(info.get("vermagic"), Some("6.12 SMP "));
    assert_eq!(info.get("license"), None);
}

#[test]
fn a_library_has_no_modinfo() {
    assert!(matches!(modinfo(&library("libx.so.1", &[])), Err(ElfError::NoSection { .. })));
}

proptest! {
    #[test]
    fn damage_is_an_error_or_another_answer_never_a_panic(
        changes in proptest::collection::vec((0_usize..700, any::<u8>()), 1..12),
        cut in 0_usize..700,
    ) {
        for mut file in [library("libcuda.so.1", &["libc.so.6"]), module(b"version=1\0alias=pci:*\0")] {
            for (at, byte) in &changes {
                let at = at % file.len();
                file[at] = *byte;
            }
            file.truncate(cut.max(64));
            let _ = read(&file);
            let _ = modinfo(&file);
        }
    }

    #[test]
    fn any_bytes_are_modinfo(bytes: Vec<u8>) {
        let _ = parse_modinfo(&bytes);
    }
}
