//! How an EROFS image is compressed, and whether a `fsck.erofs` can decompress it. Debian 12 has
//! 1.5, which supports only lz4; the driver's image of the default build uses zstd.

use crate::common::error::{Doing, Result};
use crate::programs::sandbox::Tools;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Offsets in the image of `feature_incompat` and `available_compr_algs` (struct erofs_super_block,
/// fs/erofs/erofs_fs.h of Linux).
const FEATURES_AT: u64 = 1024 + 80;
const ALGORITHMS_AT: u64 = 1024 + 84;
/// The features of an image with a list of algorithms (`COMPR_CFGS`), or with lz4 (`LZ4_0PADDING`).
const HAS_LIST: u32 = 2;
const HAS_LZ4: u32 = 1;
/// The algorithms by their bits, and the first release of erofs-utils whose `fsck.erofs` supports
/// them if it is built with their library.
const ALGORITHMS: &[(&str, &str)] = &[("lz4", "1.0"), ("lzma", "1.4"), ("deflate", "1.7"), ("zstd", "1.8")];

/// An algorithm that an image needs and a `fsck.erofs` does not support.
#[derive(Debug, PartialEq, Eq)]
pub struct Lacking {
    /// The algorithm.
    pub algorithm: &'static str,
    /// The first release of erofs-utils that supports it.
    pub since: &'static str,
    /// Name and version of the program, such as `fsck.erofs 1.5`.
    pub version: String,
}

/// The first algorithm that `image` needs and these tools do not support. `work`: an empty
/// directory.
pub fn lacking(tools: &Tools, image: &Path, work: &Path) -> Result<Option<Lacking>> {
    let needed = algorithms(image)?;
    if needed.iter().all(|(name, _)| *name == "lz4") {
        return Ok(None);
    }
    // The programs are started in the same way as later.
    let (nothing, out) = (work.join("nothing"), work.join("out"));
    File::create(&nothing).doing("creating", &nothing)?;
    fs::create_dir_all(&out).doing("creating", &out)?;
    let ask = |option| {
        let place = work.join(option);
        tools.run(&["fsck.erofs", option], &nothing, &out, &place, &|line| !line.trim().is_empty())
    };
    let version = ask("-V")?.first().cloned().unwrap_or_default();
    let help = tools.run(&["fsck.erofs", "--help"], &nothing, &out, &work.join("help"), &|line| {
        needed.iter().any(|(name, _)| line.contains(name))
    })?;
    Ok(first_lacking(&needed, &version, &help.join("\n")))
}

fn first_lacking(needed: &[(&'static str, &'static str)], version: &str, help: &str) -> Option<Lacking> {
    // A program that supports only lz4 prints no list of algorithms.
    let has = |name: &str| name == "lz4" || help.contains(name);
    let (algorithm, since) = *needed.iter().find(|(name, _)| !has(name))?;
    let version = match version.split_whitespace().last() {
        Some(number) if version.starts_with("fsck.erofs") => format!("fsck.erofs {number}"),
        _ => "fsck.erofs of unknown version".to_owned(),
    };
    Some(Lacking { algorithm, since, version })
}

/// The algorithms in the superblock of an image.
fn algorithms(image: &Path) -> Result<Vec<(&'static str, &'static str)>> {
    let file = File::open(image).doing("opening", image)?;
    let (mut features, mut list) = ([0; 4], [0; 2]);
    file.read_exact_at(&mut features, FEATURES_AT).doing("reading", image)?;
    file.read_exact_at(&mut list, ALGORITHMS_AT).doing("reading", image)?;
    let features = u32::from_le_bytes(features);
    let bits = match features {
        _ if features & HAS_LIST != 0 => u16::from_le_bytes(list),
        _ => u16::from(features & HAS_LZ4 != 0),
    };
    let set = |at: &usize| bits & (1 << at) != 0;
    Ok((0..ALGORITHMS.len()).filter(set).map(|at| ALGORITHMS[at]).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: &str = "Supported algorithms are: lz4hc, lz4";
    const NEW: &str = "following algorithms: lz4, lz4hc, lzma, deflate, libdeflate, zstd";

    fn image(features: u32, list: u16) -> Vec<&'static str> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("image");
        let mut bytes = vec![0; 4096];
        bytes[1104..1108].copy_from_slice(&features.to_le_bytes());
        bytes[1108..1110].copy_from_slice(&list.to_le_bytes());
        fs::write(&path, bytes).unwrap();
        algorithms(&path).unwrap().into_iter().map(|(name, _)| name).collect()
    }

    #[test]
    fn the_superblock_says_how_an_image_is_compressed() {
        assert_eq!(image(3, 0b1000), ["zstd"]);
        assert_eq!(image(2, 0b0111), ["lz4", "lzma", "deflate"]);
        // Without the list the field has lz4's longest distance.
        assert_eq!(image(1, 0xffff), ["lz4"]);
        assert!(image(0, 0xffff).is_empty());
    }

    #[test]
    fn an_old_fsck_erofs_is_named_with_what_it_lacks() {
        let zstd = [("zstd", "1.8")];
        let lacking = first_lacking(&zstd, "fsck.erofs 1.5", OLD).unwrap();
        let expected = Lacking { algorithm: "zstd", since: "1.8", version: "fsck.erofs 1.5".into() };
        assert_eq!(lacking, expected);
        assert_eq!(first_lacking(&zstd, "fsck.erofs (erofs-utils) 1.8.6", NEW), None);
        assert_eq!(first_lacking(&[("lz4", "1.0")], "fsck.erofs 1.2", ""), None);
        let lacking = first_lacking(&zstd, "fsck.erofs (erofs-utils) 1.8.6", OLD).unwrap();
        assert_eq!(lacking.version, "fsck.erofs 1.8.6");
    }
}
