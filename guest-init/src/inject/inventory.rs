//! What there is to give to a container: the driver's files, each with the capabilities it belongs to.
//!
//! In a guest the manifest says it. A directory without a manifest (an unpacked driver, a host's own installation, the
//! `/usr/local/nvidia` of a cluster node) is searched, and the table of capabilities tells what its files are.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use image::capability::{self, Capability, Kind as Table};
use image::layout::{self, DRIVER_BIN_DIR, DRIVER_DATA_DIR, DRIVER_LIB_DIR, DRIVER_LIB32_DIR};
use image::manifest::{self, Manifest};

use super::InjectError;
use super::plan::in_driver;
use crate::rootfs::{Kind, RootDir};

/// Directories of libraries in installations of the driver: those of an initrd, of Debian's packages, of the `.run`
/// installer on several distributions, of `/usr/local/nvidia`, and the directory itself.
const LIBRARY_DIRS: [&str; 11] = [
    DRIVER_LIB_DIR,
    "/usr/lib/x86_64-linux-gnu/nvidia/current",
    "/usr/lib/x86_64-linux-gnu",
    "/usr/lib/aarch64-linux-gnu/nvidia/current",
    "/usr/lib/aarch64-linux-gnu",
    "/usr/lib64/nvidia",
    "/usr/lib64",
    "/lib64",
    "/usr/lib",
    "/lib",
    "/",
];
/// Directories of 32-bit libraries, likewise.
const LIBRARY32_DIRS: [&str; 5] = [
    DRIVER_LIB32_DIR,
    "/usr/lib/i386-linux-gnu/nvidia/current",
    "/usr/lib/i386-linux-gnu",
    "/usr/lib32",
    "/lib32",
];
/// Directories of programs, likewise.
const PROGRAM_DIRS: [&str; 4] = [DRIVER_BIN_DIR, "/usr/lib/nvidia/current", "/bin", "/"];
/// Subdirectory of a library directory.
const VDPAU: &str = "vdpau";
/// Bytes of an ICD or JSON file; that of ray tracing is about 60 MB.
const MAX_DATA: u64 = 1 << 30;

/// Where in a container a driver file belongs.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
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
    /// Where it goes.
    pub place: Place,
    /// For a link, what it says.
    pub link: Option<OsString>,
    /// What it belongs to.
    pub capabilities: Vec<Capability>,
}

impl DriverFile {
    fn of_row(row: &capability::DriverFile, from: PathBuf, place: Place, link: Option<OsString>) -> Self {
        Self { from, place, link, capabilities: row.capabilities.to_vec() }
    }
}

/// All of them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Inventory {
    /// Version of the driver.
    pub version: Option<String>,
    /// Its files.
    pub files: Vec<DriverFile>,
}

impl Inventory {
    /// What the manifest of an initrd says.
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

    /// What a directory holds: by its manifest, if it has one, else by the names of its files.
    ///
    /// # Errors
    /// [`InjectError::Manifest`] when its manifest is damaged, [`InjectError::NoDriver`] when there is no driver, [`InjectError::DriverVersions`] when there are several.
    pub fn of_directory(driver: &RootDir) -> Result<Self, InjectError> {
        match driver.read(Path::new(layout::MANIFEST), manifest::MAX_BYTES) {
            Ok(bytes) => return Ok(Self::of_manifest(&Manifest::from_json(&bytes)?)),
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(in_driver(error)),
        }
        let version = version_in(driver)?;
        let mut found: BTreeMap<Place, DriverFile> = BTreeMap::new();
        let mut add = |dir: &Path, place: &dyn Fn(PathBuf) -> Place| {
            for name in files_in(driver, dir) {
                let Some(row) = name.to_str().and_then(|name| capability::classify(name, &version)) else {
                    continue;
                };
                let place = place(PathBuf::from(&name));
                if belongs(row.kind, &place) {
                    let file = DriverFile::of_row(row, dir.join(&name), place.clone(), None);
                    found.entry(place).or_insert(file);
                }
            }
        };
        for dir in LIBRARY_DIRS.map(Path::new) {
            add(dir, &Place::Library);
            add(&dir.join(VDPAU), &|name| Place::Library(Path::new(VDPAU).join(name)));
        }
        LIBRARY32_DIRS.map(Path::new).iter().for_each(|dir| add(dir, &Place::Library32));
        PROGRAM_DIRS.map(Path::new).iter().for_each(|dir| add(dir, &|name| Place::Program(name.into())));
        found.extend(data_in(driver, &version).into_iter().map(|file| (file.place.clone(), file)));
        let links = links_among(&found, &version);
        let files = found.into_values().chain(links).collect();
        Ok(Self { version: Some(version), files })
    }

    /// The files of some capabilities.
    pub fn chosen<'a>(&'a self, wanted: &'a BTreeSet<Capability>) -> impl Iterator<Item = &'a DriverFile> {
        self.files.iter().filter(move |file| {
            let is_32 = matches!(file.place, Place::Library32(_));
            capability::wanted(&file.capabilities, wanted)
                && (!is_32 || wanted.contains(&Capability::Compat32))
        })
    }

    /// The capabilities that its files belong to.
    pub fn capabilities(&self) -> BTreeSet<Capability> {
        let mut all: BTreeSet<Capability> =
            self.files.iter().flat_map(|file| file.capabilities.iter().copied()).collect();
        if self.files.iter().any(|file| matches!(file.place, Place::Library32(_))) {
            all.insert(Capability::Compat32);
        }
        all
    }
}

/// Where a path of the initrd goes.
fn place_of(path: &Path) -> Option<Place> {
    let below = |dir: &str| path.strip_prefix(dir).ok().map(Path::to_owned);
    if let Some(rest) = below(DRIVER_LIB_DIR) {
        return Some(Place::Library(rest));
    }
    if let Some(rest) = below(DRIVER_LIB32_DIR) {
        return Some(Place::Library32(rest));
    }
    if let Some(rest) = below(DRIVER_DATA_DIR) {
        return Some(Place::Data(Path::new("/").join(rest)));
    }
    below(DRIVER_BIN_DIR).map(|rest| Place::Program(rest.into_os_string()))
}

/// The one version that the driver's files in a directory have.
fn version_in(driver: &RootDir) -> Result<String, InjectError> {
    let mut versions = BTreeSet::new();
    for dir in LIBRARY_DIRS {
        let names = files_in(driver, Path::new(dir));
        let names = names.filter_map(|name| name.into_string().ok());
        let told = |name: String| {
            let (stem, version) = capability::version_of(&name)?;
            ["libcuda", "libnvidia-ml"].contains(&stem).then(|| version.to_owned())
        };
        versions.extend(names.filter_map(told));
        // The first directory that has a driver is the one that is used.
        if !versions.is_empty() {
            break;
        }
    }
    let mut versions = versions.into_iter();
    match (versions.next(), versions.next()) {
        (Some(version), None) => Ok(version),
        (Some(a), Some(b)) => Err(InjectError::DriverVersions { found: format!("{a} and {b}") }),
        (None, _) => Err(InjectError::NoDriver { searched: LIBRARY_DIRS.join(", ") }),
    }
}

/// The regular files of a directory, by name. One that is not there has none.
fn files_in(driver: &RootDir, dir: &Path) -> impl Iterator<Item = OsString> {
    let mut entries = driver.list(dir).unwrap_or_default();
    entries.retain(|entry| entry.kind == Kind::File);
    entries.sort_by(|a, b| a.name.cmp(&b.name));
    entries.into_iter().map(|entry| entry.name)
}

/// Whether a file of this row can be at this place.
fn belongs(kind: Table, place: &Place) -> bool {
    match (kind, place) {
        (Table::Program(_), Place::Program(_)) => true,
        (Table::Sub(dir, _), Place::Library(path)) => path.parent() == Some(Path::new(dir)),
        (
            Table::Library(_) | Table::Exact(_) | Table::Separate(_),
            Place::Library(path) | Place::Library32(path),
        ) => path.components().count() == 1,
        _ => false,
    }
}

/// ICD, JSON and the like, which stand where a container will have them.
fn data_in(driver: &RootDir, version: &str) -> Vec<DriverFile> {
    let rows = capability::TABLE.iter().filter_map(|row| match row.kind {
        Table::Data(path) => Some((row, PathBuf::from(path.replace(capability::VERSION, version)))),
        _ => None,
    });
    let there = |(row, path): (&capability::DriverFile, PathBuf)| {
        let in_initrd = Path::new(DRIVER_DATA_DIR).join(path.strip_prefix("/").unwrap_or(&path));
        let places = [in_initrd, path.clone()];
        let from = places.into_iter().find(|from| driver.open_file(from, MAX_DATA).is_ok())?;
        Some(DriverFile::of_row(row, from, Place::Data(path), None))
    };
    rows.filter_map(there).collect()
}

/// The links of the table whose targets were found.
fn links_among(found: &BTreeMap<Place, DriverFile>, version: &str) -> Vec<DriverFile> {
    let rows = capability::TABLE.iter().filter_map(|row| match row.kind {
        Table::Link { dir, name, target } => {
            Some((row, Path::new(dir).join(name), target.replace(capability::VERSION, version)))
        }
        _ => None,
    });
    let stem = |name: &OsStr| name.to_str().and_then(|name| name.split(".so").next()).map(str::to_owned);
    let there = |(row, path, target): (&capability::DriverFile, PathBuf, String)| {
        let wanted = stem(Path::new(&target).file_name()?);
        let is_it = |file: &DriverFile| file.from.file_name().and_then(stem) == wanted;
        found.values().any(is_it).then(|| {
            let place = if path.is_absolute() { Place::Data(path) } else { Place::Library(path) };
            DriverFile::of_row(row, PathBuf::new(), place, Some(target.into()))
        })
    };
    rows.filter_map(there).collect()
}

/// Whether `name` is a name that a driver of any version gives a library: `libcuda.so`, `libcuda.so.1`,
/// `libcuda.so.535.54.03`. Told by the table, so libcudart, libnvidia-container and the like are none; nor are the
/// projects that are versioned apart from the driver, as egl-wayland.
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

/// Whether `name` is one that a driver of any version gives anything that containers get.
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

/// The driver version in a library's name. `None` for names without one.
pub fn version_of(name: &OsStr) -> Option<String> {
    capability::version_of(name.to_str()?).map(|(_, version)| version.to_owned())
}
