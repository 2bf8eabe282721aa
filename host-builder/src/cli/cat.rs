//! `cat`: prints files of an initramfs to standard output.

use super::list::{kind_name, warn};
use crate::common::clean::clean;
use crate::common::digest::Hasher;
use crate::common::error::{Doing, Error, Result};
use crate::common::ui::{print_as_json, print_from};
use crate::initramfs::cpio::kind;
use crate::initramfs::{Archive, EntryPosition, Tree, Want, absolute};
use clap::Args;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek};
use std::path::Path;
use std::path::PathBuf;

pub(crate) const CAT_HELP: &str = "\
Examples:
  host-builder cat out/initrd.img /usr/share/gpu-initrd/manifest.json
  host-builder cat /boot/initrd.img etc/fstab scripts/functions

Exit codes: 0 success, 2 a file does not exist or is not a regular file, or the input is not an initramfs.";

/// Arguments of `cat`.
#[derive(Debug, Args)]
pub struct Cat {
    /// The initramfs.
    pub image: PathBuf,
    /// Files in it, with or without a leading slash. Links are not followed.
    #[arg(required = true)]
    pub paths: Vec<String>,
    /// Print a JSON array of {path, size, sha256, text} instead; text only if the content is UTF-8
    /// and at most 1 MiB.
    #[arg(long)]
    pub json: bool,
}

/// Most bytes of a text in the output of `--json`.
const MAX_TEXT: u64 = 1 << 20;

/// The content of a file, and its size.
type Found = BTreeMap<Vec<u8>, (File, u64)>;

/// Runs the command.
pub fn run(args: &Cat) -> Result<()> {
    let archive = Archive::open(&args.image)?;
    let contents = archive.read(&Want::NAMES)?;
    let tree = contents.tree();
    let paths: Vec<_> = args.paths.iter().map(|path| absolute(path.as_bytes())).collect();
    let mut found = read(&archive, &positions(&tree, &paths, &args.image)?)?;
    warn(&args.image, &contents, &tree);
    let mut reports = Vec::new();
    for (path, name) in paths.iter().zip(&args.paths) {
        let (file, size) = found.get_mut(path).expect("every path has a position");
        let place = Path::new(name);
        file.rewind().doing("reading", place)?;
        if args.json {
            let mut hasher = Hasher::default();
            std::io::copy(file, &mut hasher).doing("reading", place)?;
            let (sha256, text) = (hasher.hex(), text(file, *size).doing("reading", place)?);
            reports.push(serde_json::json!({ "path": name, "size": size, "sha256": sha256, "text": text }));
        } else if !print_from(file).doing("reading", place)? {
            return Ok(());
        }
    }
    if args.json {
        print_as_json(&reports);
    }
    Ok(())
}

/// Returns the content of a file if it is UTF-8 and at most [`MAX_TEXT`] long.
fn text(file: &mut File, size: u64) -> std::io::Result<Option<String>> {
    if size > MAX_TEXT {
        return Ok(None);
    }
    let mut bytes = Vec::new();
    file.rewind()?;
    file.read_to_end(&mut bytes)?;
    Ok(String::from_utf8(bytes).ok())
}

/// By the number of the entry with its content: where a path's last entry is.
fn positions(tree: &Tree, paths: &[Vec<u8>], image: &Path) -> Result<BTreeMap<usize, Vec<Vec<u8>>>> {
    let mut positions: BTreeMap<usize, Vec<_>> = BTreeMap::new();
    for path in paths {
        let name = clean(&String::from_utf8_lossy(path), 4096);
        let left = tree.paths.get(path).ok_or_else(|| {
            Error::new(format!("{} has no file {name}", image.display()))
                .hint("list its files: host-builder list")
        })?;
        if left.kind() != kind::FILE {
            let what = kind_name(left.kind());
            let error = Error::new(format!("{name}: expected a regular file, found a {what}"));
            return Err(match &left.item.target {
                Some(target) => error.hint(format!(
                    "print its target instead: {}",
                    clean(&String::from_utf8_lossy(target), 4096)
                )),
                None => error.hint("unpack everything: host-builder extract"),
            });
        }
        positions.entry(left.number).or_default().push(path.clone());
    }
    Ok(positions)
}

/// Contents as temporary files, because the order in the image is not the requested one.
fn read(archive: &Archive, positions: &BTreeMap<usize, Vec<Vec<u8>>>) -> Result<Found> {
    let mut found = Found::new();
    let mut at = 0;
    archive.walk(|_: EntryPosition, entry, content| {
        if let Some(paths) = positions.get(&at) {
            let place = std::env::temp_dir();
            let mut file = tempfile::tempfile().doing("creating a temporary file in", &place)?;
            content.copy(entry, &mut file, &place)?;
            for path in paths {
                let copy = file.try_clone().doing("opening a temporary file in", &place)?;
                found.insert(path.clone(), (copy, u64::from(entry.size)));
            }
        }
        at += 1;
        Ok(())
    })?;
    Ok(found)
}
