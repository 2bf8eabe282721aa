//! Which glibc a program or library needs: its loader refuses to load it with an older one.

use super::source::Source;
use super::{ElfError, ReadAt, dynamic_entries, read_header, read_program_headers};
use goblin::elf::dynamic::DT_STRSZ;

/// Bytes of the strings that the loader reads: libcuda has 60 KB.
const MAX_STRINGS: u64 = 4 << 20;
/// What the names of glibc's symbol versions begin with.
const PREFIX: &[u8] = b"GLIBC_";
/// A version that is none: relative relocations in a compact form, which the loader knows from this release on.
const RELR: (&[u8], (u32, u32)) = (b"GLIBC_ABI_DT_RELR", (2, 36));

/// The newest version of glibc among the symbol versions that a file needs (`GLIBC_2.34`); none where it needs none.
///
/// The names of versions are in the strings that all of the dynamic section uses (the "Symbol Versioning" chapter of the Linux
/// Standard Base): they are looked for there.
///
/// # Errors
/// [`ElfError`] for what [`read`](super::read) refuses, too.
pub fn glibc_needed<S: ReadAt + ?Sized>(src: &S) -> Result<Option<(u32, u32)>, ElfError> {
    let file = Source::new(src)?;
    let (header, ctx) = read_header(&file)?;
    let segments = read_program_headers(&file, &header, ctx)?;
    let Some((entries, strings)) = dynamic_entries(&file, &segments, ctx)? else { return Ok(None) };
    let size = entries.iter().find(|entry| entry.d_tag == DT_STRSZ).map_or(0, |entry| entry.d_val);
    if size > MAX_STRINGS {
        return Err(ElfError::TooLarge { what: "DT_STRSZ", found: size, limit: MAX_STRINGS });
    }
    let strings = file.up_to("the dynamic strings", strings, size)?;
    Ok(strings.split(|byte| *byte == 0).filter_map(version).max())
}

fn version(name: &[u8]) -> Option<(u32, u32)> {
    if name == RELR.0 {
        return Some(RELR.1);
    }
    let mut numbers = std::str::from_utf8(name.strip_prefix(PREFIX)?).ok()?.split('.');
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_from_their_names() {
        for (name, expected) in [
            ("GLIBC_2.2.5", Some((2, 2))),
            ("GLIBC_2.34", Some((2, 34))),
            ("GLIBC_ABI_DT_RELR", Some((2, 36))),
            ("GLIBC_PRIVATE", None),
            ("GLIBCXX_3.4", None),
            ("printf", None),
        ] {
            assert_eq!(version(name.as_bytes()), expected, "{name}");
        }
    }

    /// readelf is the oracle for the C library's own programs.
    #[test]
    fn a_real_program_needs_what_readelf_says() {
        for path in ["/bin/sh", "/usr/bin/env", "/usr/bin/tar"] {
            let output = std::process::Command::new("readelf")
                .args(["-V", path])
                .output()
                .expect("binutils is installed");
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            let names = text.split(|c: char| c.is_whitespace()).filter(|word| word.starts_with("GLIBC_"));
            let expected = names.filter_map(|name| version(name.as_bytes())).max();
            let found =
                glibc_needed(&std::fs::File::open(path).expect("Debian has it")).expect("it is a program");
            assert!(expected.is_some() && found == expected, "{path}: {found:?}, {expected:?}");
        }
    }
}
