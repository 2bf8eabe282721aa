//! The inventory of driver files, each with its capabilities.
//!
//! In a guest it comes from the manifest; a directory without a manifest is searched ([`super::directory`]).

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use image::capability::{self, Capability, Kind as Table};
use image::layout::{DRIVER_BIN_DIR, DRIVER_DATA_DIR, DRIVER_LIB_DIR, DRIVER_LIB32_DIR};
use image::manifest::{self, Manifest};

/// The place of a driver file in a container.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Placement {
    /// Below the directory of libraries.
    Library(PathBuf),
    /// Below the directory of 32-bit libraries.
    Library32(PathBuf),
    /// In the directory of programs.
    Program(OsString),
    /// At this path.
    Data(PathBuf),
}

/// One file or link of the driver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DriverFile {
    /// Path in the driver directory.
    pub from: PathBuf,
    /// Its place in the container.
    pub place: Placement,
    /// For a link, its target.
    pub link: Option<OsString>,
    /// Its capabilities.
    pub capabilities: Vec<Capability>,
}

impl DriverFile {
    pub(super) fn of_row(
        row: &capability::DriverFile,
        from: PathBuf,
        place: Placement,
        link: Option<OsString>,
    ) -> Self {
        Self { from, place, link, capabilities: row.capabilities.to_vec() }
    }
}

/// All files of a driver.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Inventory {
    /// Version of the driver.
    pub version: Option<String>,
    /// Its files.
    pub files: Vec<DriverFile>,
}

impl Inventory {
    /// Reads the inventory from the manifest of an initrd.
    pub fn of_manifest(manifest: &Manifest) -> Self {
        let files = manifest.files.iter().filter(|file| !file.capabilities.is_empty());
        let files = files.filter_map(|file| {
            let link = match &file.kind {
                manifest::Kind::Link { target } => Some(target.into()),
                manifest::Kind::File { .. } => None,
                manifest::Kind::Directory => return None,
            };
            let from = PathBuf::from(&file.path);
            Some(DriverFile { place: place_of(&from)?, from, link, capabilities: file.capabilities.clone() })
        });
        Self {
            version: manifest.driver.as_ref().map(|driver| driver.version.clone()),
            files: files.collect(),
        }
    }

    /// Returns the files of some capabilities.
    pub fn chosen<'a>(&'a self, wanted: &'a BTreeSet<Capability>) -> impl Iterator<Item = &'a DriverFile> {
        self.files.iter().filter(move |file| {
            let is_32 = matches!(file.place, Placement::Library32(_));
            capability::wanted(&file.capabilities, wanted)
                && (!is_32 || wanted.contains(&Capability::Compat32))
        })
    }

    /// Returns the capabilities of all files.
    pub fn capabilities(&self) -> BTreeSet<Capability> {
        let mut all: BTreeSet<Capability> =
            self.files.iter().flat_map(|file| file.capabilities.iter().copied()).collect();
        if self.files.iter().any(|file| matches!(file.place, Placement::Library32(_))) {
            all.insert(Capability::Compat32);
        }
        all
    }
}

/// Returns the place in the container for a path in the initrd.
fn place_of(path: &Path) -> Option<Placement> {
    let below = |dir: &str| path.strip_prefix(dir).ok().map(Path::to_owned);
    if let Some(rest) = below(DRIVER_LIB_DIR) {
        return Some(Placement::Library(rest));
    }
    if let Some(rest) = below(DRIVER_LIB32_DIR) {
        return Some(Placement::Library32(rest));
    }
    if let Some(rest) = below(DRIVER_DATA_DIR) {
        return Some(Placement::Data(Path::new("/").join(rest)));
    }
    below(DRIVER_BIN_DIR).map(|rest| Placement::Program(rest.into_os_string()))
}

/// Returns whether `name` is a library name of a driver of any version: `libcuda.so`, `libcuda.so.1`,
/// `libcuda.so.535.54.03`. It is looked up in the table, which excludes libcudart and libnvidia-container, for example, and
/// projects with their own versions, such as egl-wayland.
pub fn is_driver_library(name: &OsStr) -> bool {
    let Some((stem, rest)) = name.to_str().and_then(|name| name.split_once(".so")) else { return false };
    let numbers =
        |text: &str| text.split('.').all(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()));
    let versioned = rest.is_empty() || rest.strip_prefix('.').is_some_and(numbers);
    let is_stem = |row: &capability::DriverFile| match row.kind {
        Table::Library(known) | Table::Sub(_, known) => known == stem,
        Table::Exact(known) => known.split_once(".so").is_some_and(|(known, _)| known == stem),
        _ => false,
    };
    versioned && capability::TABLE.iter().any(is_stem)
}

/// Returns whether `name` is a program of the driver.
pub fn is_driver_program(name: &OsStr) -> bool {
    let is_it = |row: &capability::DriverFile| matches!(row.kind, Table::Program(known) if name == known);
    capability::TABLE.iter().any(is_it)
}

/// Returns whether `name` is a file name in a driver of any version, for any file that containers receive.
pub fn is_driver_name(name: &OsStr) -> bool {
    let Some(text) = name.to_str() else { return false };
    let base = |path: &'static str| path.rsplit('/').next().unwrap_or(path);
    let fits = |pattern: &str| match pattern.split_once(capability::VERSION) {
        Some((before, after)) => text.starts_with(before) && text.ends_with(after),
        None => text == pattern,
    };
    let is_of = |row: &capability::DriverFile| match row.kind {
        Table::Program(known) | Table::Exact(known) | Table::Link { name: known, .. } => fits(known),
        Table::Data(path) => fits(base(path)),
        Table::Separate(stem) => text.strip_prefix(stem).is_some_and(|rest| rest.starts_with(".so")),
        Table::Library(_) | Table::Sub(..) => false,
    };
    is_driver_library(name) || capability::TABLE.iter().any(is_of)
}

/// Returns the driver version in a library's name, `None` if it has none.
pub fn version_of(name: &OsStr) -> Option<String> {
    capability::version_of(name.to_str()?).map(|(_, version)| version.to_owned())
}
