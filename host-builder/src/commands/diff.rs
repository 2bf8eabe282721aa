//! `diff`: what changed between two images.

use super::list::{kind_name, warn};
use super::manifest_of::{is_manifest, manifest};
use crate::archive::{Archive, Contents, Left, Want};
use crate::cli::Diff as Arguments;
use crate::error::Result;
use crate::query::clean::clean;
use crate::ui::{print, print_as_json};
use image::cpio::kind;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;
use std::process::ExitCode;

/// Something before and after.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Change<T> {
    a: T,
    b: T,
}

impl<T: PartialEq> Change<T> {
    /// None when it is the same.
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

/// A path that is in both, and not the same.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Changed {
    path: String,
    /// What of it: kind, mode, owner, content, target, device.
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
    /// Bytes of the images.
    size: Change<u64>,
    /// Bytes of their regular files.
    unpacked: Change<u64>,
    added: Vec<Only>,
    removed: Vec<Only>,
    changed: Vec<Changed>,
}

/// What is said of an image as a whole.
struct Facts {
    builder: String,
    profile: String,
    kernel: String,
    driver: String,
    capabilities: String,
    size: u64,
    contents: Contents,
}

/// Runs the command.
pub fn run(args: &Arguments) -> Result<ExitCode> {
    let differences = compare(&facts(&args.a)?, &facts(&args.b)?);
    if args.json {
        print_as_json(&differences);
    } else {
        print(&text(&differences));
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
    let mut kernel = super::inspect::releases(&tree.paths).join(" ");
    if let Some((manifest, _)) = manifest(&tree, path)? {
        (builder, profile, kernel) = (manifest.builder, manifest.profile, manifest.kernel_release);
        driver = manifest.driver.map_or_else(none, |driver| driver.version);
        capabilities = manifest.capabilities.join(" ");
    }
    Ok(Facts { builder, profile, kernel, driver, capabilities, size: archive.size(), contents })
}

fn compare(a: &Facts, b: &Facts) -> Differences {
    let (before, after) = (a.contents.tree().paths, b.contents.tree().paths);
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
        size: Change { a: a.size, b: b.size },
        unpacked: Change {
            a: before.values().map(Left::bytes).sum(),
            b: after.values().map(Left::bytes).sum(),
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

/// What of an entry is not the same. Times and inode numbers are not looked at.
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
    /// Whether both unpack to the same.
    fn none(&self) -> bool {
        self.added.is_empty() && self.removed.is_empty() && self.changed.is_empty()
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
    for (sign, list) in [("-", &of.removed), ("+", &of.added)] {
        for Only { path, kind, size } in list {
            let _ = writeln!(text, "{sign} {}  {kind}, {size} bytes", safe(path));
        }
    }
    for Changed { path, what, size: Change { a, b } } in &of.changed {
        let _ = writeln!(text, "! {}  {}, {a} -> {b} bytes", safe(path), what.join(" "));
    }
    if of.none() {
        text.push_str("the same files\n");
    }
    text
}
