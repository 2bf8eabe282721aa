//! Checks the files inside the driver's EROFS image against the manifest.

use super::difference::Difference;
use crate::common::digest::sha256_file;
use crate::common::error::{Doing, Result};
use crate::doctor::{ImageFileSystem, Tools, unpack};
use image::manifest::{File, Kind, Manifest};
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;

/// Unpacks the image, or the disk that begins with it, below `work`, and compares in both
/// directions.
pub fn against(
    manifest: &Manifest,
    image: &Path,
    work: &Path,
    (kind, tools): (ImageFileSystem, &Tools),
) -> Result<Vec<Difference>> {
    let (root, complaints) = unpack(tools, kind, image, work)?;
    let mut differences: Vec<_> = complaints
        .iter()
        .map(|line| {
            Difference::new("the payload", "its file system", "one that can be read completely", line)
        })
        .collect();
    let mut expected: BTreeMap<&str, &File> =
        manifest.files.iter().filter(|file| file.payload).map(|file| (file.path.as_str(), file)).collect();
    for entry in walkdir::WalkDir::new(&root).min_depth(1).sort_by_file_name() {
        let entry = entry.map_err(io::Error::from).doing("reading", &root)?;
        let path = format!("/{}", entry.path().strip_prefix(&root).unwrap_or(entry.path()).display());
        let found = found(entry.path(), entry.file_type()).doing("reading", entry.path())?;
        match expected.remove(path.as_str()) {
            Some(file) if described(&file.kind) == found => {}
            Some(file) => {
                differences.push(Difference::new(
                    &path,
                    "what the payload has",
                    &described(&file.kind),
                    &found,
                ));
            }
            // Directories that contain files are not listed.
            None if entry.file_type().is_dir() => {}
            None => {
                let what = "a file of the payload that is not in the manifest";
                differences.push(Difference::new(&path, what, "none", &found));
            }
        }
    }
    let missing = expected.into_iter().filter(|(_, file)| file.kind != Kind::Directory);
    differences.extend(missing.map(|(path, file)| {
        Difference::new(path, "what the payload has", &described(&file.kind), "nothing")
    }));
    Ok(differences)
}

fn described(kind: &Kind) -> String {
    match kind {
        Kind::Directory => "a directory".into(),
        Kind::Link { target } => format!("a link to {target}"),
        Kind::File { sha256, .. } => format!("a file with sha256 {sha256}"),
    }
}

/// Describes an unpacked file. Links are not followed, because the image is not trusted.
fn found(path: &Path, kind: fs::FileType) -> io::Result<String> {
    Ok(if kind.is_dir() {
        described(&Kind::Directory)
    } else if kind.is_symlink() {
        described(&Kind::Link { target: fs::read_link(path)?.to_string_lossy().into_owned() })
    } else if kind.is_file() {
        let sha256 = sha256_file(path).map_err(io::Error::other)?;
        described(&Kind::File { size: 0, sha256 })
    } else {
        "a device, a pipe or a socket".into()
    })
}
