//! Packs a plan into an initramfs: the same bytes for the same plan, on any machine, at any time, for any user.

use crate::cache::{HashingReader, Staged};
use crate::error::{Doing, Error, Result};
use crate::plan::{Content, Plan};
use crate::ui::{Ui, Unit};
use image::cpio::Writer;
use image::layout;
use image::manifest::Kind;
use std::fmt;
use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::path::Path;
use std::str::FromStr;

/// Bytes that each zstd job compresses. The output depends on it, and not on the number of workers.
const ZSTD_JOB: u32 = 4 << 20;

/// How an initramfs is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// One zstd frame, level 1 to 19.
    Zstd(i32),
    /// gzip, for kernels without zstd.
    Gzip,
    /// xz with CRC-32, the only check that the kernel knows.
    Xz,
    /// Not at all.
    None,
}

impl FromStr for Compression {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        match text.split_once(':') {
            None if text == "zstd" => Ok(Self::Zstd(3)),
            None if text == "gzip" => Ok(Self::Gzip),
            None if text == "xz" => Ok(Self::Xz),
            None if text == "none" => Ok(Self::None),
            Some(("zstd", level)) => {
                let level = level.parse().ok().filter(|level| (1..=19).contains(level));
                level.map(Self::Zstd).ok_or_else(|| "the level of zstd is 1 to 19".to_owned())
            }
            _ => Err("expected zstd, zstd:LEVEL, gzip, xz or none".to_owned()),
        }
    }
}

impl fmt::Display for Compression {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Zstd(level) => write!(out, "zstd:{level}"),
            Self::Gzip => out.write_str("gzip"),
            Self::Xz => out.write_str("xz"),
            Self::None => out.write_str("none"),
        }
    }
}

/// Makes the image that will be at `path`.
pub fn pack(plan: &Plan, compression: Compression, path: &Path, ui: &Ui) -> Result<Staged> {
    let bar = ui.bar("packing", plan.manifest.unpacked_bytes(), Unit::Bytes);
    let staged = Staged::new(path, 0o644, |file| {
        let out = BufWriter::with_capacity(1 << 20, file);
        let written = match compression {
            Compression::Zstd(level) => {
                zstd(out, level).and_then(|out| archive(plan, out, &bar)?.finish().doing("writing", path))
            }
            Compression::Gzip => {
                let out = flate2::GzBuilder::new().write(out, flate2::Compression::new(6));
                archive(plan, out, &bar)?.finish().doing("writing", path)
            }
            Compression::Xz => {
                let stream = liblzma::stream::Stream::new_easy_encoder(6, liblzma::stream::Check::Crc32)
                    .map_err(|error| Error::new("starting the xz encoder").source(error))?;
                archive(plan, liblzma::write::XzEncoder::new_stream(out, stream), &bar)?
                    .finish()
                    .doing("writing", path)
            }
            Compression::None => archive(plan, out, &bar),
        };
        written?.flush().doing("writing", path)
    })?;
    bar.finish_and_clear();
    Ok(staged)
}

fn zstd<W: Write>(out: W, level: i32) -> Result<zstd::Encoder<'static, W>> {
    let prepare = || -> io::Result<_> {
        let mut encoder = zstd::Encoder::new(out, level)?;
        let workers =
            std::thread::available_parallelism().map_or(1, |count| u32::try_from(count.get()).unwrap_or(1));
        encoder.multithread(workers)?;
        encoder.set_parameter(zstd::stream::raw::CParameter::JobSize(ZSTD_JOB))?;
        encoder.include_checksum(true)?;
        Ok(encoder)
    };
    prepare().map_err(|error| Error::new("starting the zstd encoder").source(error))
}

fn archive<W: Write>(plan: &Plan, out: W, bar: &indicatif::ProgressBar) -> Result<W> {
    let mut writer = Writer::new(out);
    let manifest = plan.manifest.to_json();
    let mut manifest_written = false;
    for file in &plan.manifest.files {
        // The manifest stands where its path sorts, so that its directory comes first.
        if !manifest_written && file.path.as_str() > layout::MANIFEST {
            write_manifest(&mut writer, &manifest)?;
            manifest_written = true;
        }
        let at = Path::new(&file.path);
        match &file.kind {
            Kind::Directory => writer.directory(&file.path, file.mode).doing("packing", at)?,
            Kind::Link { target } => writer.link(&file.path, target).doing("packing", at)?,
            Kind::File { size, sha256 } => {
                let mut source = open(plan, &file.path)?;
                let mut reader = HashingReader::new(bar.wrap_read(&mut source));
                writer.file(&file.path, file.mode, *size, &mut reader).doing("packing", at)?;
                let found = reader.hasher.hex();
                if found != *sha256 {
                    return Err(Error::new(format!("{}: expected sha256 {sha256}, found {found}", file.path))
                        .hint("the cache was altered after the package was unpacked: remove the cache directory and run again"));
                }
            }
        }
    }
    if !manifest_written {
        write_manifest(&mut writer, &manifest)?;
    }
    writer.finish().doing("packing", Path::new("the archive's end"))
}

fn write_manifest<W: Write>(writer: &mut Writer<W>, manifest: &[u8]) -> Result<()> {
    let path = Path::new(layout::MANIFEST);
    writer.file(layout::MANIFEST, 0o644, manifest.len() as u64, &mut &manifest[..]).doing("packing", path)
}

fn open<'a>(plan: &'a Plan, path: &str) -> Result<Box<dyn Read + 'a>> {
    match plan.contents.get(path) {
        Some(Content::Bytes(bytes)) => Ok(Box::new(&bytes[..])),
        Some(Content::File(source)) => Ok(Box::new(File::open(source).doing("opening", source)?)),
        None => Err(Error::new(format!("{path} is in the manifest and has no content"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_compression_prints_as_it_is_written() {
        for text in ["zstd:3", "zstd:19", "gzip", "xz", "none"] {
            assert_eq!(text.parse::<Compression>().unwrap().to_string(), text);
        }
        assert!("zstd:20".parse::<Compression>().is_err());
        assert!("lz4".parse::<Compression>().is_err());
    }
}
