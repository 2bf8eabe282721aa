//! The note by which a libcuda says which CUDA it brings, and on which drivers it runs as a compatibility library.

use serde::Deserialize;

use super::{ElfError, ReadAt, section};

const SECTION: &str = ".note.cuda.fwd_compatibility";
const OWNER: &[u8] = b"NVIDIA Corporation";
/// Bytes of the section: real ones have about 200.
const MAX_NOTE: u64 = 64 * 1024;
/// Bytes of a note's header: length of the name, length of the content, type.
const HEADER: usize = 12;

/// What `.note.cuda.fwd_compatibility` says: JSON in a note of NVIDIA's. The keys are as drivers 580, 595 and 615 have them; the
/// container toolkit's `enable-cuda-compat` hook reads them in any case.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Compat {
    /// Version of CUDA that the library brings: `13.1`.
    #[serde(rename = "CUDA version", alias = "CUDA Version", default)]
    pub cuda_version: String,
    /// Branches (major versions) of the kernel's driver on which it runs.
    #[serde(rename = "driver", alias = "Driver", default)]
    pub drivers: Vec<u32>,
}

/// Reads the note of a libcuda. `None` when it has none, as that of driver 550 and older ones.
///
/// # Errors
/// [`ElfError`] when the file is no ELF file, or when the note is there and cannot be read.
pub fn cuda_compat<S: ReadAt + ?Sized>(src: &S) -> Result<Option<Compat>, ElfError> {
    let note = match section::read(src, SECTION, MAX_NOTE) {
        Err(ElfError::NoSection { .. }) => return Ok(None),
        other => other?,
    };
    let malformed = |found: &str| ElfError::Malformed { what: SECTION, found: found.into() };
    let word = |at: usize| {
        let bytes = note.get(at..at + 4)?.try_into().ok()?;
        // Every machine that NVIDIA's driver runs on is little-endian.
        usize::try_from(u32::from_le_bytes(bytes)).ok()
    };
    let (Some(name), Some(content)) = (word(0), word(4)) else {
        return Err(malformed("it is shorter than its header"));
    };
    // The container toolkit aligns by the section, whose alignment is 4.
    let at = HEADER.saturating_add(name).next_multiple_of(4);
    let owner = note.get(HEADER..HEADER.saturating_add(name)).unwrap_or_default();
    if trim(owner) != OWNER {
        return Ok(None);
    }
    // Some libraries count the padding in, past the end of the section.
    let end = at.saturating_add(content).min(note.len());
    let json = note.get(at..end).ok_or_else(|| malformed("its content is outside of the section"))?;
    serde_json::from_slice(trim(json)).map(Some).map_err(|error| malformed(&error.to_string()))
}

/// Without the NULs that end and pad it.
fn trim(bytes: &[u8]) -> &[u8] {
    let start = bytes.iter().position(|b| *b != 0).unwrap_or(bytes.len());
    let end = bytes.iter().rposition(|b| *b != 0).map_or(start, |last| last + 1);
    &bytes[start..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An object file with nothing but the section.
    fn with_section(name: &str, content: &[u8]) -> Vec<u8> {
        let strings = format!("\0{name}\0");
        let content_at = 64 + 3 * 64_u64;
        let strings_at = content_at + content.len() as u64;
        let mut out = vec![0; 64];
        out[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
        out[16..18].copy_from_slice(&3_u16.to_le_bytes());
        out[18..20].copy_from_slice(&62_u16.to_le_bytes());
        out[40..48].copy_from_slice(&64_u64.to_le_bytes());
        for (at, value) in [(52, 64_u16), (58, 64), (60, 3), (62, 2)] {
            out[at..at + 2].copy_from_slice(&value.to_le_bytes());
        }
        let parts = [(0_u32, 0, 0), (1, content_at, content.len()), (1, strings_at, strings.len())];
        for (name, at, len) in parts {
            out.extend(name.to_le_bytes());
            out.extend(7_u32.to_le_bytes());
            for word in [0, 0, at, len as u64, 0, 4, 0] {
                out.extend(u64::to_le_bytes(word));
            }
        }
        out.extend(content);
        out.extend(strings.as_bytes());
        out
    }

    fn note(owner: &[u8], content: &[u8], stated: usize) -> Vec<u8> {
        let len = |n: usize| u32::try_from(n).unwrap().to_le_bytes();
        let mut note = [len(owner.len()), len(stated), len(1)].concat();
        note.extend(owner);
        note.resize(note.len().next_multiple_of(4), 0);
        note.extend(content);
        note
    }

    const JSON: &[u8] = br#"{"format":1,"CUDA version":"13.1","driver":[535,550,590],"device":[1,2]}"#;

    #[test]
    fn the_note_is_read_whatever_its_padding() {
        let expected = Compat { cuda_version: "13.1".into(), drivers: vec![535, 550, 590] };
        let padded = [JSON, b"\0\0\0"].concat();
        for (content, stated) in
            [(JSON, JSON.len()), (&padded, padded.len()), (JSON, JSON.len() + 6), (&padded, JSON.len() + 1)]
        {
            let file = with_section(SECTION, &note(b"NVIDIA Corporation\0", content, stated));
            assert_eq!(cuda_compat(file.as_slice()).unwrap(), Some(expected.clone()));
        }
    }

    #[test]
    fn keys_are_read_in_the_case_of_the_toolkit_too() {
        let json = br#"{"Format": 1, "CUDA Version": "13.1", "Driver": [535], "Device": [1, 2]}"#;
        let file = with_section(SECTION, &note(b"NVIDIA Corporation\0", json, json.len()));
        let expected = Compat { cuda_version: "13.1".into(), drivers: vec![535] };
        assert_eq!(cuda_compat(file.as_slice()).unwrap(), Some(expected));
    }

    #[test]
    fn what_is_no_such_note_is_told_from_a_damaged_one() {
        let other = with_section(".note.other", &note(b"NVIDIA Corporation\0", JSON, JSON.len()));
        assert_eq!(cuda_compat(other.as_slice()).unwrap(), None);
        let owner = with_section(SECTION, &note(b"GNU\0", JSON, JSON.len()));
        assert_eq!(cuda_compat(owner.as_slice()).unwrap(), None);
        for damaged in [
            &b"\x01"[..],
            &note(b"NVIDIA Corporation\0", b"{", 1),
            &[0xff; 12],
            &[0x13, 0, 0, 0, 0xff, 0xff, 0xff, 0xff],
        ] {
            let _ = cuda_compat(with_section(SECTION, damaged).as_slice());
        }
        let damaged = with_section(SECTION, &note(b"NVIDIA Corporation\0", b"{", 1));
        assert!(cuda_compat(damaged.as_slice()).is_err());
    }
}
