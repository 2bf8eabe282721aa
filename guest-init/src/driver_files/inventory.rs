//! The inventory of driver files, each with its capabilities.
//!
//! In a guest it comes from the manifest; a directory without a manifest is searched ([`super::directory`]).

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use image::capability::{self, Capability};
use image::layout::{DRIVER_BIN_DIR, DRIVER_DATA_DIR, DRIVER_LIB_DIR, DRIVER_LIB32_DIR};
use image::manifest::{self, Manifest};

use crate::confined_fs::is_file_name;

/// Maximum size of one driver file in bytes.
pub(super) const MAX_FILE: u64 = 4 << 30;

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
    /// Its size in bytes; 0 for a link.
    pub size: u64,
    /// For a library of the container's machine: its SONAME, or its file name if it has none.
    pub soname: Option<OsString>,
    /// The newest version of glibc that it requires.
    pub glibc: Option<(u32, u32)>,
    /// Whether it is a script.
    pub is_script: bool,
}

impl DriverFile {
    pub(super) fn of_row(
        row: &capability::DriverFile,
        from: PathBuf,
        place: Placement,
        link: Option<OsString>,
    ) -> Self {
        let capabilities = row.capabilities.to_vec();
        Self { from, place, link, capabilities, size: 0, soname: None, glibc: None, is_script: false }
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
        Self {
            version: manifest.driver.as_ref().map(|driver| driver.version.clone()),
            files: files.filter_map(of_entry).collect(),
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

/// Returns the driver file of an entry of the manifest. host-builder has checked that each is for the machine of its place.
fn of_entry(file: &manifest::File) -> Option<DriverFile> {
    let link = match &file.kind {
        manifest::Kind::Link { target } => Some(OsString::from(target)),
        manifest::Kind::File { .. } => None,
        manifest::Kind::Directory => return None,
    };
    let from = PathBuf::from(&file.path);
    let place = place_of(&from)?;
    let is_library = link.is_none() && matches!(place, Placement::Library(_) | Placement::Library32(_));
    let soname = file.soname.as_ref().map(OsString::from).filter(|name| is_file_name(name));
    let soname = soname.or_else(|| from.file_name().map(Into::into)).filter(|_| is_library);
    let (capabilities, size, glibc) = (file.capabilities.clone(), file.size(), file.glibc);
    Some(DriverFile { from, place, link, capabilities, size, soname, glibc, is_script: false })
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
