//! `diff`: what changed between two images. Driver files in a payload image or on a payload disk
//! are compared by their digests in the manifests. Driver files that are plain files of the archive
//! are compared directly.

use super::list::{kind_name, warn};
use crate::common::clean::clean;
use crate::common::error::Result;
use crate::common::ui::{print_as_json, print_wrapped};
use crate::initramfs::cpio::kind;
use crate::initramfs::manifest::{is_manifest, manifest};
use crate::initramfs::{Archive, Contents, Left, Want};
use clap::Args;
use image::manifest::{File, Kind, Payload};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;
use std::path::PathBuf;
use std::process::ExitCode;

pub(crate) const DIFF_HELP: &str = "\
Examples:
  host-builder diff old/initrd.img out/initrd.img
  host-builder diff --json a.img b.img | jq .driver

Driver files in a payload image or on a payload disk are compared by the digests in the manifests.

Exit codes: 0 the same files with the same attributes, 1 the initrds differ, 2 one of them could not be read.";

/// Arguments of `diff`.
#[derive(Debug, Args)]
pub struct Diff {
    /// The old initrd.
    pub a: PathBuf,
    /// The new initrd.
    pub b: PathBuf,
    /// Print the differences as JSON to standard output.
    #[arg(long)]
    pub json: bool,
}

/// A value before and after.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Change<T> {
    a: T,
    b: T,
}

impl<T: PartialEq> Change<T> {
    /// Returns `None` if both are the same.
    fn of(a: T, b: T) -> Option<Self> {
        (a != b).then_some(Self { a, b })
    }
}

/// A path that is in one image only.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Only {
    path: String,
    kind: &'static str,
    size: u64,
}

/// A path that is in both images and differs.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Changed {
    path: String,
    /// What differs: kind, mode, owner, content, target, device.
    what: Vec<&'static str>,
    size: Change<u64>,
}

/// What changed between two images.
#[derive(Debug, Serialize)]
struct Differences {
    builder: Option<Change<String>>,
    profile: Option<Change<String>>,
    kernel: Option<Change<String>>,
    driver: Option<Change<String>>,
    capabilities: Option<Change<String>>,
    /// How the driver's files are carried.
    payload: Option<Change<String>>,
    /// Bytes of the images.
    size: Change<u64>,
    /// Bytes of their regular files.
    unpacked: Change<u64>,
    added: Vec<Only>,
    removed: Vec<Only>,
    changed: Vec<Changed>,
    /// The driver's files: libraries, programs, data, firmware and the GPU's modules.
    driver_files: DriverFiles,
}

/// What changed among the driver's files.
#[derive(Debug, Default, Serialize)]
struct DriverFiles {
    added: Vec<Only>,
    removed: Vec<Only>,
    changed: Vec<Changed>,
}

/// Facts about an image as a whole.
struct Facts {
    builder: String,
    profile: String,
    kernel: String,
    driver: String,
    capabilities: String,
    payload: String,
    /// The driver's files, by path.
    driver_files: BTreeMap<String, File>,
    size: u64,
    contents: Contents,
}

/// Runs the command.
pub fn run(args: &Diff) -> Result<ExitCode> {
    let differences = compare(&facts(&args.a)?, &facts(&args.b)?);
    if args.json {
        print_as_json(&differences);
    } else {
        print_wrapped(&text(&differences));
    }
    Ok(ExitCode::from(u8::from(!differences.none())))
}

fn facts(path: &Path) -> Result<Facts> {
    let archive = Archive::open(path)?;
    let contents = archive.read(&Want { digests: true, keep: &is_manifest })?;
    let none = || "none".to_owned();
    let tree = contents.tree();
    warn(path, &contents, &tree);
    let (mut builder, mut profile, mut driver, mut capabilities) = (none(), none(), none(), none());
    let (mut payload, mut driver_files) = (none(), BTreeMap::new());
    let mut kernel = super::inspect::releases(&tree.paths).join(" ");
    if let Some((manifest, _)) = manifest(&tree, path)? {
        (builder, profile, kernel) = (manifest.builder, manifest.profile, manifest.kernel_release);
        driver = manifest.driver.map_or_else(none, |driver| driver.version);
        capabilities = manifest.capabilities.join(" ");
        carried(&manifest.payload).clone_into(&mut payload);
        let of_driver =
            manifest.files.into_iter().filter(|file| file.payload && file.kind != Kind::Directory);
        let there = of_driver.map(|file| match tree.paths.get(file.path.as_bytes()) {
            Some(left) => as_it_is(file, left),
            None => file,
        });
        driver_files = there.map(|file| (file.path.clone(), file)).collect();
    }
    let size = archive.size();
    Ok(Facts { builder, profile, kernel, driver, capabilities, payload, driver_files, size, contents })
}

/// A file in the archive itself: its content counts, not its entry in the manifest.
fn as_it_is(file: File, left: &Left) -> File {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let kind = match (left.kind(), &left.item.target) {
        (kind::LINK, Some(target)) => Kind::Link { target: text(target) },
        (kind::FILE, _) => {
            Kind::File { size: left.bytes(), sha256: left.item.sha256.clone().unwrap_or_default() }
        }
        _ => Kind::Directory,
    };
    File { kind, mode: left.mode() & 0o7777, ..file }
}

fn carried(payload: &Payload) -> &'static str {
    match payload {
        Payload::Files => "files",
        Payload::Image { .. } => "image",
        Payload::Disk { .. } => "disk",
    }
}

/// The entries of an archive, without the driver's files.
fn others(facts: &Facts) -> BTreeMap<Vec<u8>, Left<'_>> {
    let mut paths = facts.contents.tree().paths;
    paths.retain(|path, _| {
        std::str::from_utf8(path).map_or(true, |path| !facts.driver_files.contains_key(path))
    });
    paths
}

fn compare_driver_files(a: &BTreeMap<String, File>, b: &BTreeMap<String, File>) -> DriverFiles {
    let word = |file: &File| if matches!(file.kind, Kind::Link { .. }) { "link" } else { "file" };
    let absent = |of: &BTreeMap<String, File>, other: &BTreeMap<String, File>| {
        let files = of.values().filter(|file| !other.contains_key(&file.path));
        files.map(|file| Only { path: file.path.clone(), kind: word(file), size: file.size() }).collect()
    };
    let what = |old: &File, new: &File| match (&old.kind, &new.kind) {
        (Kind::Link { target: old }, Kind::Link { target: new }) if old == new => None,
        (Kind::Link { .. }, Kind::Link { .. }) => Some("target"),
        (Kind::File { sha256: old, .. }, Kind::File { sha256: new, .. }) if old == new => None,
        (Kind::File { .. }, Kind::File { .. }) => Some("content"),
        _ => Some("kind"),
    };
    let changed = a.values().filter_map(|old| {
        let new = b.get(&old.path)?;
        let mut differs: Vec<_> = what(old, new).into_iter().collect();
        differs.extend((old.mode != new.mode).then_some("mode"));
        let size = Change { a: old.size(), b: new.size() };
        (!differs.is_empty()).then(|| Changed { path: old.path.clone(), what: differs, size })
    });
    DriverFiles { added: absent(b, a), removed: absent(a, b), changed: changed.collect() }
}

fn compare(a: &Facts, b: &Facts) -> Differences {
    let (before, after) = (others(a), others(b));
    let text = |value: fn(&Facts) -> &String| Change::of(value(a).clone(), value(b).clone());
    let mut changed = Vec::new();
    for (path, old) in &before {
        if let Some(new) = after.get(path) {
            let what = differences(old, new);
            if !what.is_empty() {
                changed.push(Changed {
                    path: name(path),
                    what,
                    size: Change { a: old.bytes(), b: new.bytes() },
                });
            }
        }
    }
    Differences {
        builder: text(|facts| &facts.builder),
        profile: text(|facts| &facts.profile),
        kernel: text(|facts| &facts.kernel),
        driver: text(|facts| &facts.driver),
        capabilities: text(|facts| &facts.capabilities),
        payload: text(|facts| &facts.payload),
        driver_files: compare_driver_files(&a.driver_files, &b.driver_files),
        size: Change { a: a.size, b: b.size },
        unpacked: Change {
            a: a.contents.tree().paths.values().map(Left::bytes).sum(),
            b: b.contents.tree().paths.values().map(Left::bytes).sum(),
        },
        added: only(&after, &before),
        removed: only(&before, &after),
        changed,
    }
}

fn only(of: &BTreeMap<Vec<u8>, Left>, other: &BTreeMap<Vec<u8>, Left>) -> Vec<Only> {
    let absent = of.iter().filter(|(path, _)| !other.contains_key(*path));
    absent
        .map(|(path, left)| Only { path: name(path), kind: kind_name(left.kind()), size: left.bytes() })
        .collect()
}

fn name(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
}

/// What differs between two entries. Times and inode numbers are not compared.
fn differences(a: &Left, b: &Left) -> Vec<&'static str> {
    let owner = |left: &Left| (left.entry.uid, left.entry.gid);
    let device = |left: &Left| match left.kind() {
        kind::CHARACTER | kind::BLOCK => left.item.entry.device,
        _ => (0, 0),
    };
    [
        ("kind", a.kind() != b.kind()),
        ("mode", a.mode() != b.mode()),
        ("owner", owner(a) != owner(b)),
        ("content", a.item.sha256 != b.item.sha256),
        ("target", a.item.target != b.item.target),
        ("device", device(a) != device(b)),
    ]
    .into_iter()
    .filter_map(|(what, differs)| differs.then_some(what))
    .collect()
}

impl Differences {
    /// Whether both images unpack to the same files.
    fn none(&self) -> bool {
        let of_driver = &self.driver_files;
        let came_or_went = [&self.added, &self.removed, &of_driver.added, &of_driver.removed];
        self.payload.is_none()
            && came_or_went.iter().all(|list| list.is_empty())
            && self.changed.is_empty()
            && of_driver.changed.is_empty()
    }
}

fn text(of: &Differences) -> String {
    let mut text = String::new();
    let facts = [
        ("builder", &of.builder),
        ("profile", &of.profile),
        ("kernel", &of.kernel),
        ("driver", &of.driver),
        ("capabilities", &of.capabilities),
        ("payload", &of.payload),
    ];
    let safe = |text: &str| clean(text, 4096);
    for (name, change) in facts {
        if let Some(Change { a, b }) = change {
            let _ = writeln!(text, "{name:13} {} -> {}", safe(a), safe(b));
        }
    }
    for (name, Change { a, b }) in [("image", &of.size), ("unpacked", &of.unpacked)] {
        if a != b {
            let _ = writeln!(text, "{name:13} {a} -> {b} bytes ({:+})", i128::from(*b) - i128::from(*a));
        }
    }
    lists(&mut text, "", [&of.removed, &of.added], &of.changed);
    let driver = &of.driver_files;
    lists(&mut text, "driver's ", [&driver.removed, &driver.added], &driver.changed);
    if of.none() {
        text.push_str("the same files\n");
    }
    text
}

/// Removed, added and changed paths; `whose` is printed before the kind of each.
fn lists(text: &mut String, whose: &str, [removed, added]: [&Vec<Only>; 2], changed: &[Changed]) {
    let safe = |text: &str| clean(text, 4096);
    for (sign, list) in [("-", removed), ("+", added)] {
        for Only { path, kind, size } in list {
            let _ = writeln!(text, "{sign} {}  {whose}{kind}, {size} bytes", safe(path));
        }
    }
    for Changed { path, what, size: Change { a, b } } in changed {
        let _ = writeln!(text, "! {}  {whose}{}, {a} -> {b} bytes", safe(path), what.join(" "));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, kind: Kind) -> (String, File) {
        let file = File {
            path: path.into(),
            kind,
            mode: 0o644,
            origin: String::new(),
            reason: String::new(),
            capabilities: Vec::new(),
            soname: None,
            glibc: None,
            payload: true,
        };
        (path.into(), file)
    }

    #[test]
    fn the_drivers_files_are_compared_by_their_digests() {
        let content = |sha256: &str, size| Kind::File { size, sha256: sha256.into() };
        let link = |target: &str| Kind::Link { target: target.into() };
        let a = [
            file("/lib/went", content("a", 1)),
            file("/lib/same", content("a", 1)),
            file("/lib/other", content("a", 1)),
            file("/lib/link", link("x")),
        ];
        let b = [
            file("/lib/came", content("a", 7)),
            file("/lib/same", content("a", 1)),
            file("/lib/other", content("b", 2)),
            file("/lib/link", link("y")),
        ];
        let found = compare_driver_files(&a.into(), &b.into());
        let mut text = String::new();
        lists(&mut text, "driver's ", [&found.removed, &found.added], &found.changed);
        assert_eq!(
            text,
            "- /lib/went  driver's file, 1 bytes\n+ /lib/came  driver's file, 7 bytes\n\
             ! /lib/link  driver's target, 0 -> 0 bytes\n! /lib/other  driver's content, 1 -> 2 bytes\n"
        );
    }
}
