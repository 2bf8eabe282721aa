//! How a segment is compressed, detected from its first bytes.

use serde::Serialize;
use std::fmt;

/// How a segment is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Compression {
    /// Not compressed: an archive.
    None,
    /// One member of a gzip file.
    Gzip,
    /// One xz stream.
    Xz,
    /// One zstd frame.
    Zstd,
    /// Legacy frames of lz4.
    Lz4,
    /// One bzip2 stream.
    Bzip2,
    /// One LZMA stream, the predecessor of xz.
    Lzma,
    /// One file of lzop.
    Lzop,
}

impl Compression {
    /// Detects the compression from the first bytes.
    pub fn of(head: &[u8]) -> Option<Self> {
        match head {
            [b'0', b'7', b'0', b'7', b'0', b'1' | b'2', ..] => Some(Self::None),
            [0x1f, 0x8b, ..] => Some(Self::Gzip),
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Some(Self::Xz),
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Some(Self::Zstd),
            [0x02, 0x21, 0x4c, 0x18, ..] => Some(Self::Lz4),
            [b'B', b'Z', b'h', ..] => Some(Self::Bzip2),
            [0x5d, 0, ..] => Some(Self::Lzma),
            [0x89, b'L', ..] => Some(Self::Lzop),
            _ => None,
        }
    }

    /// Its common name.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "cpio",
            Self::Gzip => "gzip",
            Self::Xz => "xz",
            Self::Zstd => "zstd",
            Self::Lz4 => "lz4",
            Self::Bzip2 => "bzip2",
            Self::Lzma => "lzma",
            Self::Lzop => "lzop",
        }
    }
}

impl fmt::Display for Compression {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.pad(self.name())
    }
}
