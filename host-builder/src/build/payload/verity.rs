//! The hash tree with which the kernel's dm-verity checks a disk: format 1, SHA-256, blocks of 4
//! KiB, no superblock, the salt before each block, the topmost level first.
//!
//! Source: Documentation/admin-guide/device-mapper/verity.rst; cryptsetup's
//! lib/verity/verity_hash.c as the oracle.

use crate::common::digest::Hasher;
use crate::common::error::{Doing, Result};
use image::manifest::Verity;
use image::text;
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::path::Path;

/// Size of a data or hash block in bytes.
#[allow(clippy::cast_possible_truncation)]
const BLOCK: usize = Verity::BLOCK as usize;
/// Size of a digest in bytes.
const DIGEST: usize = 32;
/// The size of a disk is a multiple of this, because persistent-memory devices require it.
const ALIGNMENT: u64 = 2 << 20;

/// Appends the hash tree of an image of whole blocks to its file, and pads the file to 2 MiB.
pub fn append(file: &mut File, path: &Path, salt: &str) -> Result<Verity> {
    let size = file.seek(io::SeekFrom::End(0)).doing("measuring", path)?;
    debug_assert_eq!(size % Verity::BLOCK, 0);
    let raw_salt = text::from_hex(salt).unwrap_or_default();
    let mut levels = vec![leaves(file, &raw_salt).doing("reading", path)?];
    while levels.last().is_some_and(|level| level.len() > BLOCK) {
        let next = hash_blocks(levels.last().map_or(&[], Vec::as_slice), &raw_salt);
        levels.push(next);
    }
    let mut root = levels.last().map(|top| hash_blocks(top, &raw_salt)).unwrap_or_default();
    if size == Verity::BLOCK {
        // With a single block, its digest is the root, and there is no tree.
        root = levels.pop().unwrap_or_default();
    }
    file.seek(io::SeekFrom::End(0)).doing("measuring", path)?;
    for level in levels.iter().rev() {
        file.write_all(level).doing("writing", path)?;
    }
    let end = file.stream_position().doing("measuring", path)?.next_multiple_of(ALIGNMENT);
    file.set_len(end).doing("writing", path)?;
    Ok(Verity { root_hash: text::to_hex(&root[..DIGEST.min(root.len())]), salt: salt.into(), disk_size: end })
}

/// Computes the lowest level from the data.
fn leaves(file: &mut File, salt: &[u8]) -> io::Result<Vec<u8>> {
    file.rewind()?;
    let mut level = Vec::new();
    let mut buffer = vec![0; BLOCK * 64];
    loop {
        let got = fill(file, &mut buffer)?;
        if got == 0 {
            pad(&mut level);
            return Ok(level);
        }
        buffer[..got].chunks(BLOCK).for_each(|block| level.extend_from_slice(&digest(salt, block)));
    }
}

fn fill(file: &mut File, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read(&mut buffer[filled..])? {
            0 => break,
            got => filled += got,
        }
    }
    Ok(filled)
}

/// Computes the level above another one.
fn hash_blocks(level: &[u8], salt: &[u8]) -> Vec<u8> {
    let mut next: Vec<u8> = level.chunks(BLOCK).flat_map(|block| digest(salt, block)).collect();
    pad(&mut next);
    next
}

fn pad(level: &mut Vec<u8>) {
    level.resize(level.len().next_multiple_of(BLOCK).max(BLOCK), 0);
}

fn digest(salt: &[u8], block: &[u8]) -> [u8; DIGEST] {
    let mut hasher = Hasher::default();
    hasher.update(salt);
    hasher.update(block);
    hasher.bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    fn disk(blocks: usize) -> (tempfile::TempDir, Verity, std::path::PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk");
        let bytes: Vec<u8> = (0..blocks * BLOCK).map(|at| u8::try_from(at * 7 % 251).unwrap()).collect();
        std::fs::write(&path, bytes).unwrap();
        let mut file = File::options().read(true).write(true).open(&path).unwrap();
        let verity = append(&mut file, &path, &"5a".repeat(32)).unwrap();
        (dir, verity, path)
    }

    #[test]
    fn disk_consists_of_data_tree_and_padding() {
        let (_dir, verity, path) = disk(1);
        assert_eq!(verity.disk_size, ALIGNMENT);
        assert_eq!(std::fs::metadata(&path).unwrap().len(), ALIGNMENT);
        assert_eq!(verity.root_hash.len(), 64);
    }

    /// One block has room for 128 digests. The sizes: one block less, exactly one, one more, and
    /// three levels.
    #[test]
    fn veritysetup_accepts_our_trees() {
        for blocks in [1, 127, 128, 129, 128 * 128 + 1] {
            let (_dir, verity, path) = disk(blocks);
            let output = Command::new("veritysetup")
                .args(["verify", "--no-superblock", "--format=1", "--hash=sha256"])
                .args(["--data-block-size=4096", "--hash-block-size=4096"])
                .arg(format!("--salt={}", verity.salt))
                .arg(format!("--data-blocks={blocks}"))
                .arg(format!("--hash-offset={}", blocks * BLOCK))
                .args([&path, &path])
                .arg(&verity.root_hash)
                .output()
                .expect("veritysetup is there (package cryptsetup-bin)");
            assert!(output.status.success(), "{blocks}: {}", String::from_utf8_lossy(&output.stderr));
        }
    }
}
