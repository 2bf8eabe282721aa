//! The driver's files as an EROFS image, made by the toolroot's mkfs.erofs. The same files produce
//! the same bytes. The image is cached by the digest of all inputs.

use super::verity;
use crate::artifacts::cache::Cache;
use crate::artifacts::tree::{read_json, write_json};
use crate::build::plan::{Draft, altered};
use crate::common::digest::{HashingReader, sha256, sha256_file};
use crate::common::error::{Doing, Error, Result};
use crate::common::files::Staged;
use crate::common::interrupt;
use crate::common::ui::Ui;
use crate::programs::toolroot::{Toolroot, explain};
use clap::ValueEnum;
use image::manifest::{Erofs, File as Entry, Kind, Verity};
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;

/// Changed with every change of the image's creation, so that old images are not reused.
const RECIPE: &str = "1";
/// File for mkfs.erofs: a cluster size, an algorithm by its number, and a pattern for paths, in each line.
const HINTS: &str = "hints";
/// Number of images that the cache keeps; each has about 120 MB.
const KEPT: usize = 12;
const IMAGE: &str = "driver.erofs";
const ABOUT: &str = "about.json";

/// How the image is compressed. Guests read files from it without unpacking the whole image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Compression {
    /// zstd, but for what a boot waits for lz4hc (modules) or nothing (firmware, which hardly shrinks); Linux as for zstd.
    Mixed,
    /// Fast to read; Linux 5.4 or newer.
    Lz4hc,
    /// Smallest; Linux 6.10 or newer with CONFIG_EROFS_FS_ZIP_ZSTD.
    Zstd,
    /// Not at all.
    None,
}

impl Compression {
    /// Arguments of mkfs.erofs. The clusters are large, because driver libraries are read
    /// sequentially.
    fn arguments(self) -> &'static [&'static str] {
        match self {
            Self::Mixed => &["-zlz4hc,9:zstd,3", "-C131072", "--compress-hints=/build/hints"],
            Self::Lz4hc => &["-zlz4hc,9", "-C65536"],
            Self::Zstd => &["-zzstd,3", "-C131072"],
            Self::None => &[],
        }
    }

    /// The compression of single files, for [`HINTS`].
    fn hints(self) -> Option<&'static str> {
        (self == Self::Mixed).then_some("0 0 ^lib/firmware/\n65536 0 ^lib/modules/\n131072 1 .\n")
    }

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Mixed => "mixed",
            Self::Lz4hc => "lz4hc",
            Self::Zstd => "zstd",
            Self::None => "none",
        }
    }
}

/// An image in the cache.
#[derive(Debug, Clone)]
pub struct Image {
    /// Path of the image, including hash tree and padding for a disk.
    pub path: PathBuf,
    /// Its description in the manifest.
    pub erofs: Erofs,
    /// The hash tree after it.
    pub verity: Verity,
}

impl Image {
    /// Stages the disk for `path`. Each byte of the image is checked while it is copied.
    pub fn stage(&self, path: &Path) -> Result<Staged> {
        Staged::new(path, 0o644, |file| {
            let mut source = File::open(&self.path).doing("opening", &self.path)?;
            let mut image = HashingReader::new((&mut source).take(self.erofs.size));
            io::copy(&mut image, file).doing("writing", path)?;
            let found = image.hasher.hex();
            if found != self.erofs.sha256 {
                return Err(altered(&self.path.display().to_string(), &self.erofs.sha256, &found));
            }
            io::copy(&mut source, file).map(drop).doing("writing", path)
        })
    }
}

#[derive(Serialize, Deserialize)]
struct About {
    erofs: Erofs,
    verity: Verity,
}

/// Makes the image of the driver's files in a plan. `toolroot` is called only if the image is not
/// cached.
pub fn make(
    cache: &Cache,
    draft: &Draft,
    compression: Compression,
    toolroot: impl FnOnce() -> Result<Toolroot>,
    ui: &Ui,
) -> Result<Image> {
    let files: Vec<&Entry> = draft.manifest().files.iter().filter(|file| file.payload).collect();
    let key = key(&files, compression);
    let dir = cache.derived("payloads", &key, |out| {
        let toolroot = toolroot()?;
        ui.line(format!("making the driver's image ({}, {} files) …", compression.name(), files.len()));
        let work = cache.scratch()?;
        let tree = work.path().join("tree");
        lay_out(draft, &files, &tree)?;
        let uuid = uuid(&key);
        run(&toolroot, work.path(), compression, &uuid)?;
        let image = out.join(IMAGE);
        fs::rename(work.path().join(IMAGE), &image).doing("moving to", &image)?;
        finish(&image, uuid, &key, out)
    })?;
    cache.forget("payloads", KEPT)?;
    let about: About = read_json(&dir.join(ABOUT))?;
    Ok(Image { path: dir.join(IMAGE), erofs: about.erofs, verity: about.verity })
}

/// Digest of everything that the bytes of the image depend on.
fn key(files: &[&Entry], compression: Compression) -> String {
    let hints = compression.hints().unwrap_or_default();
    let mut text = format!("{RECIPE} {:?}\n{hints}", compression.arguments());
    for file in files {
        text.push_str(&format!("{} {:o} {:?}\n", file.path, file.mode, file.kind));
    }
    sha256(text.as_bytes())
}

/// A UUID of version 8 (RFC 9562), derived from the key: different files or another compression
/// produce another one.
fn uuid(key: &str) -> String {
    let mut digits: Vec<char> = key.chars().take(32).collect();
    digits[12] = '8';
    digits[16] = '8';
    let text: String = digits.into_iter().collect();
    [&text[..8], &text[8..12], &text[12..16], &text[16..20], &text[20..]].join("-")
}

/// Copies the files into `tree`, and checks each byte against the manifest.
fn lay_out(draft: &Draft, files: &[&Entry], tree: &Path) -> Result<()> {
    for file in files {
        let path = tree.join(file.path.trim_start_matches('/'));
        let parent = path.parent().unwrap_or(tree);
        fs::create_dir_all(parent).doing("creating", parent)?;
        match &file.kind {
            Kind::Directory => fs::create_dir_all(&path).doing("creating", &path)?,
            Kind::Link { target } => symlink(target, &path).doing("linking", &path)?,
            Kind::File { sha256, .. } => copy(draft, &path, file, sha256)?,
        }
    }
    // Directories have the mode that they would have in the archive, regardless of the caller's
    // umask.
    for entry in walkdir::WalkDir::new(tree) {
        let entry = entry.map_err(|error| Error::new("reading the driver's files").source(error))?;
        if entry.file_type().is_dir() {
            crate::common::files::set_mode(entry.path(), 0o755)?;
        }
    }
    Ok(())
}

fn copy(draft: &Draft, path: &Path, file: &Entry, expected: &str) -> Result<()> {
    let mut out = File::create(path).doing("creating", path)?;
    let mut reader = HashingReader::new(draft.open(&file.path)?);
    io::copy(&mut reader, &mut out).doing("copying to", path)?;
    let found = reader.hasher.hex();
    if found != expected {
        return Err(altered(&file.path, expected, &found));
    }
    out.set_permissions(fs::Permissions::from_mode(file.mode)).doing("setting the mode of", path)
}

fn run(toolroot: &Toolroot, work: &Path, compression: Compression, uuid: &str) -> Result<()> {
    if let Some(hints) = compression.hints() {
        let path = work.join(HINTS);
        fs::write(&path, hints).doing("writing", &path)?;
    }
    let mut command = toolroot.command(&[(work, "/build")], "mkfs.erofs");
    command.args(["--quiet", "--all-root", "--force-uid=0", "--force-gid=0", "-T0", "-b4096", "-x-1"]);
    command.args(["--ignore-mtime", "-U", uuid]).args(compression.arguments());
    command.args([&format!("/build/{IMAGE}"), "/build/tree"]);
    let child =
        command.process_group(0).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let child = child.map_err(|error| Error::new("cannot run unshare (package util-linux)").source(error))?;
    let _killed = interrupt::kills(&child);
    let output = child.wait_with_output().doing("waiting for", Path::new("mkfs.erofs"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = [output.stdout, output.stderr].concat();
    Err(explain("making the driver's image (mkfs.erofs)", &String::from_utf8_lossy(&said)))
}

/// Pads the image to whole blocks, hashes it, and appends the hash tree.
fn finish(image: &Path, uuid: String, key: &str, out: &Path) -> Result<()> {
    let mut file = File::options().read(true).write(true).open(image).doing("opening", image)?;
    let size = file.metadata().doing("reading", image)?.len().next_multiple_of(Verity::BLOCK);
    file.set_len(size).doing("padding", image)?;
    let erofs = Erofs { uuid, size, sha256: sha256_file(image)? };
    let verity = verity::append(&mut file, image, key)?;
    write_json(&out.join(ABOUT), &About { erofs, verity })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uuid_is_derived_from_the_key_and_has_version_8() {
        assert_eq!(uuid(&"0123456789abcdef".repeat(4)), "01234567-89ab-8def-8123-456789abcdef");
    }

    #[test]
    fn key_depends_on_files_modes_and_compression() {
        let file = |path: &str, mode| Entry {
            path: path.into(),
            kind: Kind::File { size: 1, sha256: "aa".into() },
            mode,
            origin: String::new(),
            reason: String::new(),
            capabilities: Vec::new(),
            soname: None,
            glibc: None,
            payload: true,
        };
        let (a, b, c) = (file("/a", 0o644), file("/b", 0o644), file("/a", 0o755));
        let keys = [
            key(&[&a], Compression::Zstd),
            key(&[&b], Compression::Zstd),
            key(&[&c], Compression::Zstd),
            key(&[&a], Compression::Lz4hc),
            key(&[&a], Compression::Mixed),
        ];
        let distinct: std::collections::BTreeSet<_> = keys.iter().collect();
        assert_eq!(distinct.len(), keys.len());
        assert_eq!(key(&[&a], Compression::Zstd), keys[0]);
    }
}
