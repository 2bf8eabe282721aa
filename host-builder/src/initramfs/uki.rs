//! Unified kernel images: an EFI program whose section `.initrd` is the initramfs.
//!
//! Format: PE/COFF, of which only the section table is read;
//! uapi-group.org/specifications/specs/unified_kernel_image.

use super::source::{Source, exact};
use std::io;

const NAME: &[u8; 8] = b".initrd\0";
/// Section with an archive that the stub puts in front.
const MICROCODE: &[u8; 8] = b".ucode\0\0";
/// Offset in the DOS header of the offset of the PE header.
const PE_OFFSET: u64 = 0x3c;
/// Sizes of the PE header with its signature, and of an entry in the section table.
const HEADER: u64 = 24;
const ENTRY: u64 = 40;
/// The limit of the format.
const MAX_SECTIONS: u64 = 96;

/// Offset and size of the initramfs in an EFI program; `None` for other files.
///
/// # Errors
/// The EFI program does not have exactly one such section, or the section is not completely in the
/// file.
pub fn initrd(source: &dyn Source) -> io::Result<Option<(u64, u64)>> {
    if source.size() < PE_OFFSET + 4 || exact(source, 0)? != *b"MZ" {
        return Ok(None);
    }
    let header = u64::from(u32::from_le_bytes(exact(source, PE_OFFSET)?));
    if exact(source, header)? != *b"PE\0\0" {
        return Ok(None);
    }
    let half = |at: u64| Ok::<_, io::Error>(u64::from(u16::from_le_bytes(exact(source, header + at)?)));
    let (count, optional) = (half(6)?, half(20)?);
    let mut found = None;
    for number in 0..count.min(MAX_SECTIONS) {
        let at = header + HEADER + optional + number * ENTRY;
        let name: [u8; 8] = exact(source, at)?;
        if name == *MICROCODE {
            return Err(io::Error::other(
                "an EFI program with a section .ucode, which is unpacked before .initrd: this is not supported",
            ));
        }
        if name != *NAME {
            continue;
        }
        let word = |at: u64| Ok::<_, io::Error>(u64::from(u32::from_le_bytes(exact(source, at)?)));
        // The size in memory. The size in the file is rounded up.
        let (size, rounded, offset) = (word(at + 8)?, word(at + 16)?, word(at + 20)?);
        let size = size.min(rounded);
        if found.replace((offset, size)).is_some() {
            return Err(io::Error::other(
                "an EFI program with several sections .initrd: which one is unpacked depends on its profile",
            ));
        }
        if offset + size > source.size() {
            return Err(io::Error::other("an EFI program whose section .initrd is longer than the file"));
        }
    }
    found.map(Some).ok_or_else(|| {
        io::Error::other("an EFI program without a section .initrd: not a unified kernel image")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An EFI program with sections of these names, all with this content.
    fn program(names: &[&[u8; 8]], content: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; 0x80];
        bytes[..2].copy_from_slice(b"MZ");
        bytes[0x3c] = 0x80;
        bytes.extend(b"PE\0\0\x64\x86");
        bytes.extend(u16::try_from(names.len()).unwrap().to_le_bytes());
        bytes.extend([0; 12]);
        bytes.extend(8_u16.to_le_bytes());
        bytes.extend([0; 2 + 8]);
        let first = bytes.len() + names.len() * 40;
        for (number, name) in names.iter().enumerate() {
            let offset = u32::try_from(first + number * content.len()).unwrap();
            let size = u32::try_from(content.len()).unwrap();
            bytes.extend(*name);
            for word in [size - 2, 0, size, offset] {
                bytes.extend(word.to_le_bytes());
            }
            bytes.extend([0; 16]);
        }
        bytes.extend(content.repeat(names.len()));
        bytes
    }

    #[test]
    fn section_is_found_by_its_name() {
        let bytes = program(&[b".linux\0\0", NAME], b"content");
        let (offset, size) = initrd(&bytes).unwrap().unwrap();
        let at = usize::try_from(offset).unwrap();
        assert_eq!(&bytes[at..at + usize::try_from(size).unwrap()], b"conte");
        assert_eq!(
            initrd(&b"070701 is no EFI program, and long enough to be one, it seems to be".to_vec()).unwrap(),
            None
        );
        assert_eq!(initrd(&b"MZ".to_vec()).unwrap(), None);
    }

    proptest::proptest! {
        #[test]
        fn whatever_the_headers_say_it_ends(mut bytes in proptest::collection::vec(proptest::num::u8::ANY, 64..600), at in 0_u8..=255) {
            bytes[..2].copy_from_slice(b"MZ");
            bytes[0x3c..0x40].copy_from_slice(&u32::from(at).to_le_bytes());
            if let Some(place) = bytes.get_mut(usize::from(at)..usize::from(at) + 4) {
                place.copy_from_slice(b"PE\0\0");
            }
            if let Ok(Some((offset, size))) = initrd(&bytes) {
                proptest::prop_assert!(offset + size <= bytes.len() as u64);
            }
        }
    }

    #[test]
    fn program_without_exactly_one_section_is_refused() {
        for names in [&[b".linux\0\0"][..], &[NAME, NAME], &[NAME, MICROCODE]] {
            assert!(initrd(&program(names, b"content")).is_err());
        }
        let mut cut = program(&[NAME], b"content");
        cut.truncate(cut.len() - 4);
        assert!(initrd(&cut).unwrap_err().to_string().contains("longer than the file"));
        cut.truncate(0x90);
        assert!(initrd(&cut).is_err());
    }
}
