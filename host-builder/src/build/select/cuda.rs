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
use std::io::Read;

/// The library with the note.
const LIBCUDA: &str = "libcuda.so.";
/// The library with the compiler.
const COMPILER: &str = "libnvidia-ptxjitcompiler.so.";
/// Text before the version.
const BEFORE: &[u8] = b"Cuda compilation tools, release ";
/// Maximum size of a library that is read; real ones have 20 to 45 MB.
const MAX_BYTES: u64 = 1 << 30;

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
    let mut bytes = Vec::new();
    let file = plain::open(&compiler.source).doing("opening", &compiler.source)?;
    file.take(MAX_BYTES).read_to_end(&mut bytes).doing("reading", &compiler.source)?;
    Ok(version(&bytes))
}

fn version(library: &[u8]) -> Option<String> {
    let found = memmem::find_iter(library, BEFORE).filter_map(|at| release(&library[at + BEFORE.len()..]));
    let found: BTreeSet<String> = found.collect();
    // With two versions, it is not certain which one is the driver's.
    found.first().filter(|_| found.len() == 1).cloned()
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
}
