//! Unpacks one segment as a stream, and reports where it ended.

use super::blocks;
use super::compression::Compression;
use super::lz4::Lz4;
use super::lzop::Lzop;
use std::io::{self, BufRead, Read};

/// Most memory for unpacking xz or lzma. The largest preset needs 65 MiB.
const XZ_MEMORY: u64 = 128 << 20;
/// Windows of zstd above this are refused, by the kernel as well.
const ZSTD_WINDOW_LOG: u32 = 27;

/// Counts the bytes that a decoder consumes.
pub struct Counted<R> {
    inner: R,
    /// Number of consumed bytes.
    pub taken: u64,
}

impl<R> Counted<R> {
    /// Reads from `inner`.
    pub fn new(inner: R) -> Self {
        Self { inner, taken: 0 }
    }
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let got = self.inner.read(buffer)?;
        self.taken += got as u64;
        Ok(got)
    }
}

impl<R: BufRead> BufRead for Counted<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.inner.fill_buf()
    }

    fn consume(&mut self, count: usize) {
        self.inner.consume(count);
        self.taken += count as u64;
    }
}

/// Decompresses `input` up to the end of one stream. Nothing after it is consumed.
pub fn decoder<'a>(compression: Compression, input: impl BufRead + 'a) -> io::Result<Box<dyn Read + 'a>> {
    Ok(match compression {
        Compression::None => Box::new(input),
        Compression::Gzip => Box::new(flate2::bufread::GzDecoder::new(input)),
        Compression::Xz => {
            let stream = liblzma::stream::Stream::new_stream_decoder(XZ_MEMORY, 0)?;
            Box::new(liblzma::bufread::XzDecoder::new_stream(input, stream))
        }
        Compression::Zstd => {
            let mut decoder = zstd::Decoder::with_buffer(input)?.single_frame();
            decoder.window_log_max(ZSTD_WINDOW_LOG)?;
            Box::new(decoder)
        }
        Compression::Lz4 => Box::new(blocks::Decoder::new(input, Lz4::default())),
        Compression::Lzop => Box::new(blocks::Decoder::new(input, Lzop::default())),
        Compression::Lzma => {
            let stream = liblzma::stream::Stream::new_lzma_decoder(XZ_MEMORY)?;
            Box::new(liblzma::bufread::XzDecoder::new_stream(input, stream))
        }
        Compression::Bzip2 => Box::new(bzip2::bufread::BzDecoder::new(input)),
    })
}
