//! The CUDA version of a driver, read from its own files.
//!
//! libcuda has a note with the version, by which compatibility libraries are judged (drivers 580,
//! 595 and 615). Older drivers do not have the note. A driver accepts PTX of its own CUDA version
//! and older, so its PTX compiler has that version, and contains the line that every compiler of
//! the CUDA toolkit prints: `Cuda compilation tools, release 12.4, V12.4.131`. Drivers 470, 550,
//! 580, 595 and 615 have this line, and it agrees with the note if there are both.

use super::selected::Selected;
use crate::common::error::{Doing, Result};
use crate::common::files::base_name;
use crate::common::plain;
use image::elf;
use memchr::memmem;
use std::collections::BTreeSet;
use std::io::{self, Read};

/// The library with the note.
const LIBCUDA: &str = "libcuda.so.";
/// The library with the compiler.
const COMPILER: &str = "libnvidia-ptxjitcompiler.so.";
/// Text before the version.
const BEFORE: &[u8] = b"Cuda compilation tools, release ";
/// Maximum size of a library that is read; real ones have 20 to 45 MB.
const MAX_BYTES: u64 = 1 << 30;
/// Bytes of a part that is searched at a time, and of the longest line with a version.
const PART: usize = 256 << 10;
const MAX_LINE: usize = BEFORE.len() + 8;

/// The CUDA version in the selected files; `None` if neither library is selected or has a version.
pub fn version_of(files: &[Selected]) -> Result<Option<String>> {
    let named = |start| files.iter().find(|file| base_name(&file.path).starts_with(start));
    if let Some(libcuda) = named(LIBCUDA) {
        let file = plain::open(&libcuda.source).doing("opening", &libcuda.source)?;
        // A note that cannot be read counts as absent.
        let note = elf::cuda_compat(&file).ok().flatten();
        let said = note.and_then(|note| release(format!("{},", note.cuda_version).as_bytes()));
        if said.is_some() {
            return Ok(said);
        }
    }
    let Some(compiler) = named(COMPILER) else { return Ok(None) };
    let file = plain::open(&compiler.source).doing("opening", &compiler.source)?;
    version(file.take(MAX_BYTES)).doing("reading", &compiler.source)
}

/// Searches a library part by part: it is large.
fn version(mut library: impl Read) -> io::Result<Option<String>> {
    let mut found = BTreeSet::new();
    let (mut buffer, mut filled) = (vec![0; PART + MAX_LINE], 0);
    loop {
        let got = library.read(&mut buffer[filled..])?;
        filled += got;
        // What begins in the last bytes may go on in the next part.
        let whole = if got == 0 { filled } else { filled.saturating_sub(MAX_LINE) };
        let begins = memmem::find_iter(&buffer[..filled], BEFORE).take_while(|at| *at < whole);
        found.extend(begins.filter_map(|at| release(&buffer[at + BEFORE.len()..filled])));
        if got == 0 {
            // With two versions, it is not certain which one is the driver's.
            return Ok(found.first().filter(|_| found.len() == 1).cloned());
        }
        buffer.copy_within(whole..filled, 0);
        filled -= whole;
    }
}

/// `13.4` of `13.4, V13.4.89`.
fn release(text: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(&text[..text.iter().take(8).position(|byte| *byte == b',')?]).ok()?;
    let (major, minor) = text.split_once('.')?;
    let number = |text: &str| text.parse::<u32>().ok();
    Some(format!("{}.{}", number(major)?, number(minor)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_version_is_accepted_and_two_are_not() {
        let line = |text: &str| [b"\0\xffx", BEFORE, text.as_bytes(), b"\0"].concat();
        let version = |library: &[u8]| version(library).unwrap();
        assert_eq!(version(&line("13.4, V13.4.89")).as_deref(), Some("13.4"));
        assert_eq!(
            version(&[line("12.4, V12.4.131"), line("12.4, V12.4.1")].concat()).as_deref(),
            Some("12.4")
        );
        assert_eq!(version(&[line("12.4, V1"), line("12.8, V1")].concat()), None);
        for text in ["13, V", "x.4, V", "13.4", "", "13.4.5, V", "123456789.1, V", "+1.+2x, "] {
            assert_eq!(version(&line(text)), None, "{text}");
        }
        assert_eq!(version(b""), None);
    }
    #[test]
    fn a_version_is_found_wherever_a_part_ends() {
        let line = [BEFORE, b"12.4, V12.4.131\0"].concat();
        for before in (PART - 50..PART + 60).step_by(3) {
            let library = [vec![b'x'; before], line.clone(), vec![0; PART]].concat();
            assert_eq!(version(&library[..]).unwrap().as_deref(), Some("12.4"), "{before}");
        }
    }
}
