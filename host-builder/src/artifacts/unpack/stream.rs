//! Detects how a stream is compressed, and decompresses it.

use super::error::damaged;
use crate::common::error::{Error, Result};
use crate::initramfs::Compression;
use crate::initramfs::file_type::{TAR, begins};
use std::io::{BufRead, Read};
use std::path::Path;

/// Most memory for an xz stream.
const XZ_MEMORY: u64 = 512 << 20;

/// Whether a stream starts like gzip, xz or zstd.
pub fn is_compressed(front: &[u8]) -> bool {
    suffix(front).is_some()
}

/// Whether a stream starts like a tar archive.
pub fn is_tar(front: &[u8]) -> bool {
    begins(front, TAR)
}

/// The file suffix for the compression of a stream; `None` if it is not compressed.
fn suffix(front: &[u8]) -> Option<&'static str> {
    match Compression::of(front)? {
        Compression::Gzip => Some("gz"),
        Compression::Xz => Some("xz"),
        Compression::Zstd => Some("zst"),
        _ => None,
    }
}

/// Decompresses a stream according to its first bytes; an uncompressed stream is returned as it is.
pub fn inflate<'a>(mut stream: impl BufRead + 'a, origin: &Path) -> Result<Box<dyn Read + 'a>> {
    let front = stream.fill_buf().map_err(|error| damaged(origin, error))?;
    let suffix = suffix(front).unwrap_or("tar");
    decompressor(&format!("x.{suffix}"), stream)
}

/// Decompresses a stream according to a file name.
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
