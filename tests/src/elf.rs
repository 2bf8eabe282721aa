//! The smallest library that a loader's tools take for one.

/// A shared object of this machine with a SONAME and nothing else: a header, a dynamic section, its
/// strings.
pub fn library(soname: &str) -> Vec<u8> {
    const DYNAMIC: u64 = 64 + 2 * 56;
    const STRINGS: u64 = DYNAMIC + 4 * 16;
    let machine: u16 = if cfg!(target_arch = "aarch64") { 183 } else { 62 };
    let strings = [b"\0", soname.as_bytes(), b"\0"].concat();
    let end = STRINGS + strings.len() as u64;
    let mut out = vec![0_u8; 64];
    out[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
    // e_type ET_DYN, e_machine, e_version, e_phoff, e_ehsize, e_phentsize, e_phnum.
    for (at, value) in [(16, 3), (18, machine), (20, 1), (32, 64), (52, 64), (54, 56), (56, 2)] {
        out[at..at + 2].copy_from_slice(&value.to_le_bytes());
    }
    // PT_LOAD over everything, PT_DYNAMIC.
    for (kind, at, len) in [(1_u32, 0, end), (2, DYNAMIC, STRINGS - DYNAMIC)] {
        out.extend([kind.to_le_bytes(), 4_u32.to_le_bytes()].concat());
        out.extend([at, at, at, len, len, 8].iter().flat_map(|word: &u64| word.to_le_bytes()));
    }
    // DT_SONAME, DT_STRTAB, DT_STRSZ, DT_NULL.
    let entries = [14, 1, 5, STRINGS, 10, strings.len() as u64, 0, 0];
    out.extend(entries.iter().flat_map(|word| word.to_le_bytes()));
    out.extend(strings);
    out
}
