//! The report of `inspect`.

use super::modules::{self, View};
use crate::common::error::Result;
use crate::initramfs::cpio::kind;
use crate::initramfs::manifest::manifest;
use crate::initramfs::{Contents, Left, Segment, Tree};
use image::layout;
use image::manifest::{Kind, Manifest, Payload};
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::Path;

/// Facts about an initramfs.
#[derive(Debug, Serialize)]
pub struct InspectReport {
    pub image: String,
    pub size: u64,
    /// Number of regular files after unpacking, and their bytes.
    pub unpacked_files: usize,
    pub unpacked_bytes: u64,
    pub entries: usize,
    /// The tool that made it, if it can be detected.
    pub tool: Option<String>,
    pub profile: Option<String>,
    pub arch: Option<String>,
    pub kernel_releases: Vec<String>,
    pub driver: Option<String>,
    /// The CUDA version of the driver, if its files state it.
    pub cuda: Option<String>,
    pub capabilities: Vec<String>,
    /// Where the driver's files are.
    pub payload: Option<Payload>,
    /// The program that the kernel starts.
    pub init: Option<String>,
    pub modules: Vec<View>,
    pub firmware: Vec<String>,
    /// Driver files for containers, by capability.
    pub driver_files: BTreeMap<String, Vec<String>>,
    /// Files and bytes: by origin in an image of this tool, by directory in any other.
    pub sizes: Vec<Size>,
    pub segments: Vec<Segment>,
    /// The largest files with their bytes, for a picture.
    #[serde(skip)]
    pub largest: Vec<(String, u64)>,
}

/// A part of an image.
#[derive(Debug, Serialize)]
pub struct Size {
    pub of: String,
    pub files: usize,
    pub bytes: u64,
}

/// Files that a picture shows.
pub const LARGEST: usize = 25;

/// Files that only one tool makes, and the name of the tool. `{}` is the first line of the file.
const TOLD_BY: &[(&str, &str)] = &[
    ("/usr/lib/dracut/build-parameter.txt", "dracut, {}"),
    ("/lib/dracut/build-parameter.txt", "dracut, {}"),
    ("/usr/lib/dracut/hooks", "dracut"),
    ("/lib/dracut/hooks", "dracut"),
    ("/conf/initramfs.conf", "initramfs-tools"),
    ("/scripts/init-premount", "initramfs-tools"),
    ("/etc/booster.init.yaml", "booster"),
    ("/buildconfig", "mkinitcpio"),
    ("/init_functions", "mkinitcpio"),
];

/// Whether the content of the file at a path identifies the tool that made the image.
pub fn is_told_by(path: &[u8]) -> bool {
    TOLD_BY.iter().any(|(told, words)| told.as_bytes() == path && words.contains("{}"))
}

impl InspectReport {
    /// Creates the report of an image.
    pub fn of(contents: &Contents, whole: &Tree, path: &Path, size: u64) -> Result<Self> {
        let tree = &whole.paths;
        let files = || tree.values().filter(|left| left.kind() == kind::FILE);
        let read = modules::read(tree);
        let mut report = Self {
            image: path.display().to_string(),
            size,
            unpacked_files: files().count(),
            unpacked_bytes: files().map(Left::bytes).sum(),
            entries: contents.items.len(),
            tool: tool(tree),
            profile: None,
            arch: None,
            kernel_releases: modules::releases(tree),
            driver: None,
            cuda: None,
            capabilities: Vec::new(),
            payload: None,
            init: init(tree),
            modules: Vec::new(),
            firmware: firmware(tree),
            driver_files: BTreeMap::new(),
            sizes: Vec::new(),
            segments: contents.segments.clone(),
            largest: Vec::new(),
        };
        if let Some((manifest, _)) = manifest(whole, path)? {
            report.modules = modules::planned(&manifest, &read);
            report.largest = largest(manifest.files.iter().map(|file| (file.path.clone(), file.size())));
            report.take(manifest);
        } else {
            report.modules = modules::found(&read);
            report.sizes = by_directory(tree);
            let files = tree.iter().filter(|(_, left)| left.kind() == kind::FILE);
            report.largest =
                largest(files.map(|(path, left)| (String::from_utf8_lossy(path).into_owned(), left.bytes())));
        }
        Ok(report)
    }

    fn take(&mut self, manifest: Manifest) {
        self.driver_files = driver_files(&manifest);
        self.sizes = by_origin(&manifest);
        self.tool = Some(manifest.builder);
        self.profile = Some(manifest.profile);
        self.arch = Some(manifest.arch);
        self.kernel_releases = vec![manifest.kernel_release];
        self.capabilities = manifest.capabilities;
        self.payload = Some(manifest.payload);
        if let Some(driver) = manifest.driver {
            self.firmware = driver.firmware;
            self.driver = Some(driver.version);
            self.cuda = driver.cuda;
        }
    }
}

fn tool(tree: &BTreeMap<Vec<u8>, Left>) -> Option<String> {
    TOLD_BY.iter().find_map(|(path, words)| {
        let item = tree.get(path.as_bytes())?.item;
        let content = item.content.as_deref().map(String::from_utf8_lossy).unwrap_or_default();
        Some(words.replace("{}", content.lines().next().unwrap_or_default().trim()))
    })
}

fn init(tree: &BTreeMap<Vec<u8>, Left>) -> Option<String> {
    let item = tree.get(layout::INIT.as_bytes())?.item;
    let target = item.target.as_ref().map(|target| String::from_utf8_lossy(target).into_owned());
    let size = item.entry.size;
    Some(
        target.map_or(format!("{}, {size} bytes", layout::INIT), |target| {
            format!("{} -> {target}", layout::INIT)
        }),
    )
}

/// Files below the kernel's firmware directory, and early microcode.
fn firmware(tree: &BTreeMap<Vec<u8>, Left>) -> Vec<String> {
    let mut found = Vec::new();
    for (path, _) in tree.iter().filter(|(_, left)| left.kind() != kind::DIRECTORY) {
        let path = String::from_utf8_lossy(path);
        let short = path.strip_prefix("/usr").unwrap_or(&path);
        if let Some(name) = short.strip_prefix(layout::FIRMWARE_DIR).and_then(|rest| rest.strip_prefix('/')) {
            found.push(name.to_owned());
        } else if path.starts_with("/kernel/x86/microcode/") {
            found.push(path[1..].to_owned());
        }
    }
    found
}

fn driver_files(manifest: &Manifest) -> BTreeMap<String, Vec<String>> {
    let mut by: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for file in &manifest.files {
        for capability in &file.capabilities {
            by.entry(capability.to_string()).or_default().push(file.path.clone());
        }
    }
    by
}

fn by_origin(manifest: &Manifest) -> Vec<Size> {
    let elsewhere = manifest.payload != Payload::Files;
    let files = manifest.files.iter().filter_map(|file| match file.kind {
        Kind::File { size, .. } if file.payload && elsewhere => {
            Some((format!("{}, in the payload", file.origin), size))
        }
        Kind::File { size, .. } => Some((file.origin.clone(), size)),
        _ => None,
    });
    sizes(files)
}

/// By the first two parts of the path.
fn by_directory(tree: &BTreeMap<Vec<u8>, Left>) -> Vec<Size> {
    let files = tree.iter().filter(|(_, left)| left.kind() == kind::FILE).map(|(path, left)| {
        let path = String::from_utf8_lossy(path);
        let parent = path.rsplit_once('/').map_or("", |(parent, _)| parent);
        let directory: Vec<_> = parent.split('/').take(3).collect();
        (directory.join("/") + "/", left.bytes())
    });
    sizes(files)
}

/// The largest files, the largest first.
fn largest(files: impl Iterator<Item = (String, u64)>) -> Vec<(String, u64)> {
    let mut files: Vec<_> = files.filter(|(_, bytes)| *bytes > 0).collect();
    files.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    files.truncate(LARGEST);
    files
}

/// The largest first.
fn sizes(files: impl Iterator<Item = (String, u64)>) -> Vec<Size> {
    let mut by: BTreeMap<String, (usize, u64)> = BTreeMap::new();
    for (of, bytes) in files {
        let sum = by.entry(of).or_default();
        *sum = (sum.0 + 1, sum.1 + bytes);
    }
    let mut sizes: Vec<_> = by.into_iter().map(|(of, (files, bytes))| Size { of, files, bytes }).collect();
    sizes.sort_by(|a, b| b.bytes.cmp(&a.bytes).then_with(|| a.of.cmp(&b.of)));
    sizes
}
