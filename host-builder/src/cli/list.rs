//! `list`: the entries of an initramfs.

use crate::common::clean::clean;
use crate::common::error::Result;
use crate::common::ui;
use crate::common::ui::{print_as_json, print_bytes};
use crate::initramfs::cpio::kind;
use crate::initramfs::{Archive, BootConfig, Contents, Item, Segment, Tree, Want};
use clap::Args;
use serde::{Serialize, Serializer};
use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::path::Path;
use std::path::PathBuf;

pub(crate) const LIST_HELP: &str = "\
Examples:
  host-builder list out/initrd.img
  host-builder list --json /boot/initrd.img | jq -r '.files[] | select(.size > 1000000) | .name'

Exit codes: 0 success, 2 the file does not exist or is not an initramfs.";

/// Arguments of `list`.
#[derive(Debug, Args)]
pub struct List {
    /// The initramfs.
    pub image: PathBuf,
    /// Print the header of every entry as JSON to standard output.
    #[arg(long)]
    pub json: bool,
}

/// Most characters of a name.
const MAX_NAME: usize = 4096;
/// Most warnings for one image.
const MAX_WARNINGS: usize = 100;

/// Runs the command.
pub fn run(args: &List) -> Result<()> {
    let contents = Archive::open(&args.image)?.read(&Want::NAMES)?;
    let tree = contents.tree();
    if args.json {
        let Contents { segments, boot_config, .. } = &contents;
        print_as_json(&Listed { segments, boot_config, files: files(&contents, &tree) });
    } else {
        print_bytes(&names(&contents, std::io::stdout().is_terminal()));
        warn(&args.image, &contents, &tree);
    }
    Ok(())
}

/// The entries and what is around them, for `--json`.
#[derive(Serialize)]
struct Listed<'a, F> {
    segments: &'a [Segment],
    boot_config: &'a Option<BootConfig>,
    files: F,
}

/// Prints warnings about an image to standard error, so that standard output has only the list.
pub fn warn(image: &Path, contents: &Contents, tree: &Tree) {
    let say = |what: &str| ui::say(&clean(&format!("warning: {}: {what}", image.display()), MAX_NAME));
    for remark in tree.remarks.iter().take(MAX_WARNINGS) {
        let name = contents.items[remark.item].entry.text();
        say(&format!("{name}: the kernel does not unpack it as stored: it {}", remark.what));
    }
    if let Some(more) = tree.remarks.len().checked_sub(MAX_WARNINGS).filter(|more| *more > 0) {
        say(&format!("{more} more entries are not unpacked as stored; list --json shows all"));
    }
    if let Some(BootConfig { offset, size }) = contents.boot_config {
        let what = "kernels with CONFIG_BOOT_CONFIG strip it, and apply it if their command line has bootconfig; others try to unpack it";
        say(&format!("boot configuration of {size} bytes at offset {offset}: {what}"));
    }
}

/// One name per line: the raw bytes, or without control characters for a terminal (`harmless`).
pub fn names(contents: &Contents, harmless: bool) -> Vec<u8> {
    let mut out = Vec::new();
    for item in &contents.items {
        if harmless {
            out.extend(clean(&item.entry.text(), MAX_NAME).bytes());
        } else {
            out.extend(&item.entry.name);
        }
        out.push(b'\n');
    }
    out
}

/// An entry for `--json`.
#[derive(Serialize)]
pub struct ListedFile<'a> {
    name: String,
    /// The bytes of the name in hexadecimal, if they are not UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    name_hex: Option<String>,
    segment: usize,
    archive: usize,
    kind: &'static str,
    /// Permission bits, octal.
    mode: String,
    uid: u32,
    gid: u32,
    links: u32,
    inode: u32,
    mtime: u32,
    size: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    device: Option<(u32, u32)>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sha256: Option<&'a str>,
    /// What the kernel does with the entry, if it does not unpack it as stored.
    #[serde(skip_serializing_if = "Option::is_none")]
    kernel: Option<&'a str>,
}

/// The entries for `--json`, in order. Each is created when it is written.
pub fn files<'a>(contents: &'a Contents, tree: &'a Tree) -> impl Serialize {
    Files { contents, tree }
}

struct Files<'a> {
    contents: &'a Contents,
    tree: &'a Tree<'a>,
}

impl Serialize for Files<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        let mut remarks: BTreeMap<usize, &str> = BTreeMap::new();
        for remark in &self.tree.remarks {
            remarks.entry(remark.item).or_insert(&remark.what);
        }
        let items = self.contents.items.iter().enumerate();
        serializer.collect_seq(items.map(|(number, item)| file(item, remarks.get(&number).copied())))
    }
}

fn file<'a>(item: &'a Item, kernel: Option<&'a str>) -> ListedFile<'a> {
    let entry = &item.entry;
    let is_device = matches!(entry.kind(), kind::CHARACTER | kind::BLOCK);
    ListedFile {
        name: entry.text().into_owned(),
        name_hex: std::str::from_utf8(&entry.name).is_err().then(|| image::text::to_hex(&entry.name)),
        segment: item.place.segment,
        archive: item.place.archive,
        kind: kind_name(entry.kind()),
        mode: format!("{:04o}", entry.mode & 0o7777),
        uid: entry.uid,
        gid: entry.gid,
        links: entry.links,
        inode: entry.inode,
        mtime: entry.mtime,
        size: entry.size,
        target: item.target.as_ref().map(|target| String::from_utf8_lossy(target).into_owned()),
        device: is_device.then_some(entry.device),
        sha256: item.sha256.as_deref(),
        kernel,
    }
}

/// The kind of an entry, as one word.
pub fn kind_name(of: u32) -> &'static str {
    match of {
        kind::DIRECTORY => "directory",
        kind::FILE => "file",
        kind::LINK => "link",
        kind::CHARACTER => "character-device",
        kind::BLOCK => "block-device",
        kind::FIFO => "fifo",
        kind::SOCKET => "socket",
        _ => "unknown",
    }
}
