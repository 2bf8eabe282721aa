//! The compressions of segments that the kernel's unpacker supports.

use crate::common::error::{Error, Result};
use std::fmt;
use std::io::{self, Write};
use std::str::FromStr;

/// Bytes that each zstd job compresses. The output depends on this number, but not on the number of
/// workers.
const ZSTD_JOB: u32 = 4 << 20;
/// Magic number of an LZ4 legacy frame, the only kind that the kernel reads
/// (lib/decompress_unlz4.c).
const LZ4_MAGIC: [u8; 4] = 0x184c_2102_u32.to_le_bytes();
/// Uncompressed size of a block of such a frame.
const LZ4_BLOCK: usize = 8 << 20;

/// How an initramfs is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// One zstd frame per segment, level 1 to 19.
    Zstd(i32),
    /// LZ4 legacy frames: the fastest to unpack.
    Lz4,
    /// gzip, for kernels without zstd.
    Gzip,
    /// xz with CRC-32, the only check that the kernel supports.
    Xz,
    /// Not at all.
    None,
}

impl FromStr for Compression {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        match text.split_once(':') {
            None if text == "zstd" => Ok(Self::Zstd(3)),
            None if text == "lz4" => Ok(Self::Lz4),
            None if text == "gzip" => Ok(Self::Gzip),
            None if text == "xz" => Ok(Self::Xz),
            None if text == "none" => Ok(Self::None),
            Some(("zstd", level)) => {
                let level = level.parse().ok().filter(|level| (1..=19).contains(level));
                level.map(Self::Zstd).ok_or_else(|| "expected a zstd level from 1 to 19".to_owned())
            }
            _ => Err("expected zstd, zstd:LEVEL, lz4, gzip, xz or none".to_owned()),
        }
    }
}

impl fmt::Display for Compression {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Zstd(level) => write!(out, "zstd:{level}"),
            Self::Lz4 => out.write_str("lz4"),
            Self::Gzip => out.write_str("gzip"),
            Self::Xz => out.write_str("xz"),
            Self::None => out.write_str("none"),
        }
    }
}

impl Compression {
    /// Compresses the `size` bytes that `fill` writes, and writes the result to `out`.
    pub(super) fn through(
        self,
        out: &mut dyn Write,
        size: u64,
        fill: impl FnOnce(&mut dyn Write) -> Result<()>,
    ) -> Result<()> {
        let end = |result: io::Result<()>| {
            result.map_err(|error| Error::new(format!("ending the {self} stream")).source(error))
        };
        match self {
            Self::Zstd(level) => {
                let mut encoder = zstd(out, level, size)?;
                fill(&mut encoder)?;
                end(encoder.finish().map(drop))
            }
            Self::Lz4 => {
                let mut encoder = Lz4::new(out);
                fill(&mut encoder)?;
                end(encoder.finish())
            }
            Self::Gzip => {
                let mut encoder = flate2::GzBuilder::new().write(out, flate2::Compression::new(6));
                fill(&mut encoder)?;
                end(encoder.finish().map(drop))
            }
            Self::Xz => {
                let stream = liblzma::stream::Stream::new_easy_encoder(6, liblzma::stream::Check::Crc32)
                    .map_err(|error| Error::new("starting the xz encoder").source(error))?;
                let mut encoder = liblzma::write::XzEncoder::new_stream(out, stream);
                fill(&mut encoder)?;
                end(encoder.finish().map(drop))
            }
            Self::None => fill(out),
        }
    }
}

/// The frame header contains the unpacked size, so readers know it without unpacking.
fn zstd(out: &mut dyn Write, level: i32, size: u64) -> Result<zstd::Encoder<'static, &mut dyn Write>> {
    let prepare = || -> io::Result<_> {
        let mut encoder = zstd::Encoder::new(out, level)?;
        let workers =
            std::thread::available_parallelism().map_or(1, |count| u32::try_from(count.get()).unwrap_or(1));
        encoder.multithread(workers)?;
        encoder.set_parameter(zstd::stream::raw::CParameter::JobSize(ZSTD_JOB))?;
        encoder.include_checksum(true)?;
        encoder.set_pledged_src_size(Some(size))?;
        Ok(encoder)
    };
    prepare().map_err(|error| Error::new("starting the zstd encoder").source(error))
}

/// Writes one LZ4 legacy frame: a magic number, then blocks, each after its compressed length.
struct Lz4<W: Write> {
    out: W,
    block: Vec<u8>,
    begun: bool,
}

impl<W: Write> Lz4<W> {
    fn new(out: W) -> Self {
        Self { out, block: Vec::with_capacity(LZ4_BLOCK), begun: false }
    }

    fn end_block(&mut self) -> io::Result<()> {
        if !self.begun {
            self.out.write_all(&LZ4_MAGIC)?;
            self.begun = true;
        }
        if self.block.is_empty() {
            return Ok(());
        }
        let packed = lz4_flex::block::compress(&self.block);
        let length = u32::try_from(packed.len()).map_err(io::Error::other)?;
        self.out.write_all(&length.to_le_bytes())?;
        self.out.write_all(&packed)?;
        self.block.clear();
        Ok(())
    }

    fn finish(mut self) -> io::Result<()> {
        self.end_block()?;
        self.out.flush()
    }
}

impl<W: Write> Write for Lz4<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(LZ4_BLOCK - self.block.len());
        self.block.extend_from_slice(&bytes[..taken]);
        if self.block.len() == LZ4_BLOCK {
            self.end_block()?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compression_display_matches_its_option_value() {
        for text in ["zstd:3", "zstd:19", "lz4", "gzip", "xz", "none"] {
            assert_eq!(text.parse::<Compression>().unwrap().to_string(), text);
        }
        assert!("zstd:20".parse::<Compression>().is_err());
        assert!("lzo".parse::<Compression>().is_err());
    }

    #[test]
    fn lz4_program_unpacks_our_frames() {
        use std::process::{Command, Stdio};
        let text: Vec<u8> = (0..3 * LZ4_BLOCK / 2).map(|at| u8::try_from(at / 100 % 251).unwrap()).collect();
        let mut packed = Vec::new();
        Compression::Lz4
            .through(&mut packed, text.len() as u64, |out| {
                out.write_all(&text).unwrap();
                Ok(())
            })
            .unwrap();
        let mut child = Command::new("lz4")
            .args(["-d", "-c"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("lz4 is there (package lz4)");
        let mut stdin = child.stdin.take().unwrap();
        std::thread::spawn(move || stdin.write_all(&packed).unwrap());
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success());
        assert!(output.stdout == text);
    }
}
