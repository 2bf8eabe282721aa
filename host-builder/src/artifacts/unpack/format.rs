//! Detects the type of a file from its first bytes, because names are not reliable and files in the cache have none.

use super::{damaged, runfile};
use crate::common::error::{Doing, Error, Result};
use std::fs::File;
use std::io::{BufRead, Read};
use std::path::Path;

/// Enough of a file to tell: the `skip=` of an installer is in its first kilobytes.
const FRONT: u64 = 64 << 10;
const GZIP: &[u8] = &[0x1f, 0x8b];
const XZ: &[u8] = &[0xfd, b'7', b'z', b'X', b'Z', 0];
const ZSTD: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];
/// Most memory for an xz stream.
const XZ_MEMORY: u64 = 512 << 20;

/// What a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Debian package.
    Deb,
    /// RPM package.
    Rpm,
    /// Zip archive.
    Zip,
    /// Self-extracting installer.
    Runfile,
    /// Tar archive.
    Tar,
    /// A compressed stream, which must be a tar archive.
    Compressed,
    /// Anything else.
    Plain,
}

/// What the file is.
pub fn of(path: &Path) -> Result<Format> {
    let mut front = Vec::new();
    File::open(path).doing("opening", path)?.take(FRONT).read_to_end(&mut front).doing("reading", path)?;
    Ok(match &front {
        front if front.starts_with(b"!<arch>\n") => Format::Deb,
        front if front.starts_with(&[0xed, 0xab, 0xee, 0xdb]) => Format::Rpm,
        front if front.starts_with(b"PK\x03\x04") => Format::Zip,
        front if is_compressed(front) => Format::Compressed,
        front if is_tar(front) => Format::Tar,
        front if runfile::is_runfile(front) => Format::Runfile,
        _ => Format::Plain,
    })
}

/// Whether a stream begins as gzip, xz or zstd do.
pub fn is_compressed(front: &[u8]) -> bool {
    [GZIP, XZ, ZSTD].iter().any(|magic| front.starts_with(magic))
}

/// Whether a stream begins as a tar archive does.
pub fn is_tar(front: &[u8]) -> bool {
    front.get(257..262) == Some(b"ustar")
}

/// The decompressor that the stream's first bytes ask for; none for a stream that is not compressed.
pub fn inflate<'a>(mut stream: impl BufRead + 'a, origin: &Path) -> Result<Box<dyn Read + 'a>> {
    let front = stream.fill_buf().map_err(|error| damaged(origin, error))?;
    let name = match front {
        front if front.starts_with(GZIP) => ".gz",
        front if front.starts_with(XZ) => ".xz",
        front if front.starts_with(ZSTD) => ".zst",
        _ => ".tar",
    };
    decompressor(&format!("x{name}"), stream)
}

/// The decompressor that a file name asks for.
pub fn decompressor<'a>(name: &str, stream: impl Read + 'a) -> Result<Box<dyn Read + 'a>> {
    match Path::new(name).extension().and_then(|extension| extension.to_str()) {
        Some("xz") => {
            let decoder =
                liblzma::stream::Stream::new_stream_decoder(XZ_MEMORY, liblzma::stream::CONCATENATED)
                    .map_err(|error| Error::new("starting the xz decoder").source(error))?;
            Ok(Box::new(liblzma::read::XzDecoder::new_stream(stream, decoder)))
        }
        Some("zst") => {
            let decoder = zstd::Decoder::new(stream)
                .map_err(|error| Error::new("starting the zstd decoder").source(error))?;
            Ok(Box::new(decoder))
        }
        Some("gz") => Ok(Box::new(flate2::read::MultiGzDecoder::new(stream))),
        Some("tar" | "ko") => Ok(Box::new(stream)),
        _ => Err(Error::new(format!("{name}: expected a file that ends in .xz, .zst, .gz, .tar or .ko"))),
    }
}
