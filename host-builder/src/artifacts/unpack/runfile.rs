//! Self-extracting installers: NVIDIA's `.run` files, and those of makeself. They are never
//! executed. Only the line number of the archive is read from the script at the front.
//!
//! NVIDIA's have `skip=N`, and the archive starts *at* line N. Those of makeself have `skip="N"`,
//! and it starts *after* line N. The bytes at these lines decide.

use super::format::skip;
use super::stream::{inflate, is_compressed, is_tar};
use super::unpacker::{Unpacker, open};
use crate::common::error::{Doing, Error, Result};
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

/// Maximum size of the script. NVIDIA's has about 40 KiB.
const MAX_SCRIPT: u64 = 4 << 20;
/// Bytes that identify a stream: tar's magic number ends at 262.
const PROBE: usize = 512;

impl Unpacker<'_> {
    /// Unpacks the archive inside a self-extracting installer.
    pub fn runfile(&mut self, path: &Path) -> Result<()> {
        let mut input = open(path)?;
        let mut script = Vec::new();
        (&mut input).take(MAX_SCRIPT).read_to_end(&mut script).doing("reading", path)?;
        let start = archive_start(&script).ok_or_else(|| {
            Error::new(format!("{}: expected a script with skip=LINES and an archive after it", path.display()))
                .hint("use an installer of NVIDIA or makeself whose archive is not encrypted and is compressed with gzip, xz or zstd")
        })?;
        let tar = is_tar(&script[start..]);
        input.seek(SeekFrom::Start(start as u64)).doing("reading", path)?;
        if tar { self.tar(input, path) } else { self.tar(inflate(input, path)?, path) }
    }
}

fn archive_start(script: &[u8]) -> Option<usize> {
    let lines = skip(script)?;
    [lines, lines.checked_sub(1)?].into_iter().find_map(|lines| {
        let start = after_lines(script, lines)?;
        let there = &script[start..script.len().min(start + PROBE)];
        (is_compressed(there) || is_tar(there)).then_some(start)
    })
}

/// Offset of the line after `lines` lines.
fn after_lines(script: &[u8], lines: usize) -> Option<usize> {
    let mut ends = script.iter().enumerate().filter(|(_, byte)| **byte == b'\n').map(|(at, _)| at + 1);
    lines.checked_sub(1).map_or(Some(0), |last| ends.nth(last))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::artifacts::unpack::format::is_runfile;

    #[test]
    fn both_ways_of_counting_lines_find_the_archive() {
        let gzip = [0x1f, 0x8b, 8, 0];
        let after = [b"#!/bin/sh\nskip=\"3\"\nexit\n", &gzip[..]].concat();
        assert_eq!(archive_start(&after), Some(after.len() - 4));
        let at = [b"#!/bin/sh\nskip=4\nexit\n", &gzip[..]].concat();
        assert_eq!(archive_start(&at), Some(at.len() - 4));
        assert!(is_runfile(&at) && !is_runfile(b"#!/bin/sh\necho skip=4\n"));
    }

    #[test]
    fn script_with_a_wrong_line_number_has_no_archive() {
        for text in [
            "#!/bin/sh\nskip=1\nexit\n",
            "#!/bin/sh\nskip=99999999999999999999\n",
            "#!\nskip=0\n",
            "#!\nskip=7\n",
        ] {
            assert_eq!(archive_start(text.as_bytes()), None, "{text}");
        }
    }
}
