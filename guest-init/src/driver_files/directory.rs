//! Finds the driver files in a directory without a manifest: an unpacked driver, an installation on a host, the
//! `/usr/local/nvidia` of a cluster node, links into a store. It searches the usual directories of installations and
//! identifies files with the table of capabilities.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use image::capability::installed::{self, Directories};
use image::capability::{self, Kind as Table, TABLE};
use image::elf;
use image::layout::{self, DRIVER_DATA_DIR};
use image::manifest::{self, Manifest};

use super::elf_facts;
use super::error::{InjectError, in_driver};
use super::inventory::{DriverFile, Inventory, MAX_FILE, Placement};
use super::names::is_driver_name;
use crate::confined_fs::{EntryType, RootDir};
use crate::ldcache::Machine;

/// Subdirectory of a library directory.
const VDPAU: &str = "vdpau";
/// Maximum size of a data file in bytes; that of ray tracing has about 60 MB.
const MAX_DATA: u64 = 1 << 30;

impl Inventory {
    /// Reads the inventory from the manifest of an initrd, whose driver files are in `driver`. The files themselves are read
    /// only if the manifest has an older format, which does not contain their facts.
    pub fn of_initrd(manifest: &Manifest, driver: &RootDir) -> Self {
        let mut inventory = Self::of_manifest(manifest);
        if manifest.format < manifest::FACTS_SINCE {
            for file in &mut inventory.files {
                elf_facts::read(driver, file);
            }
        }
        inventory
    }

    /// Reads the inventory of a directory: from its manifest if it has one, otherwise from the names of its files.
    ///
    /// # Errors
    /// [`InjectError::Manifest`] if its manifest is damaged, [`InjectError::NoDriver`] if there is no driver,
    /// [`InjectError::DriverVersions`] if there are several.
    pub fn of_directory(driver: &RootDir) -> Result<Self, InjectError> {
        match driver.read(Path::new(layout::MANIFEST), manifest::MAX_BYTES) {
            Ok(bytes) => return Ok(Self::of_initrd(&Manifest::from_json(&bytes)?, driver)),
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(in_driver(error)),
        }
        let directories = Directories::of(&|dir| subdirectories(driver, dir));
        let version = version_in(driver, &directories)?;
        let mut found = libraries_in(driver, &directories, &version);
        found.extend(programs_in(driver, &directories, &version));
        found.extend(data_in(driver, &directories, &version));
        let links = links_among(&found, &version);
        let mut files: Vec<DriverFile> = found.into_values().chain(links).collect();
        for file in &mut files {
            elf_facts::read(driver, file);
        }
        Ok(Self { version: Some(version), files })
    }
}

fn subdirectories(driver: &RootDir, dir: &str) -> Vec<String> {
    let entries = driver.list(&Path::new("/").join(dir)).unwrap_or_default();
    let entries = entries.into_iter().filter(|entry| match entry.kind {
        EntryType::Directory => true,
        EntryType::Link => driver
            .stat(&Path::new("/").join(dir).join(&entry.name))
            .is_ok_and(|stat| stat.kind == EntryType::Directory),
        EntryType::File | EntryType::Other => false,
    });
    entries.filter_map(|entry| entry.name.into_string().ok()).collect()
}

/// A file in a directory, with its name there.
struct Entry {
    name: String,
    /// Path of the file, with links resolved.
    from: PathBuf,
}

/// Returns the regular files of a directory, by name, and links to regular files. A missing directory has none.
fn files_in(driver: &RootDir, dir: &Path) -> Vec<Entry> {
    let dir = Path::new("/").join(dir);
    let mut entries = driver.list(&dir).unwrap_or_default();
    entries.sort_by(|a, b| a.name.cmp(&b.name));
    let entry = |name: OsString, kind: EntryType| {
        let path = dir.join(&name);
        let from = match kind {
            EntryType::File => path,
            // Other links need not be followed.
            EntryType::Link if is_driver_name(&name) => driver.canonical(&path).ok()?,
            _ => return None,
        };
        let is_file = driver.lstat(&from).is_ok_and(|stat| stat.kind == EntryType::File);
        is_file.then_some(Entry { name: name.into_string().ok()?, from })
    };
    entries.into_iter().filter_map(|found| entry(found.name, found.kind)).collect()
}

/// Returns the only version of the driver files in a directory. The first group of directories with a driver is used.
fn version_in(driver: &RootDir, directories: &Directories) -> Result<String, InjectError> {
    let told = |name: &str| {
        let (stem, version) = capability::version_of(name)?;
        ["libcuda", "libnvidia-ml"].contains(&stem).then(|| version.to_owned())
    };
    let versions_of = |group: &Vec<String>| -> BTreeSet<String> {
        let entries = group.iter().flat_map(|dir| files_in(driver, Path::new(dir)));
        entries.filter_map(|entry| told(&entry.name)).collect()
    };
    let found = directories.libraries.iter().map(versions_of).find(|versions| !versions.is_empty());
    let mut versions = found.unwrap_or_default().into_iter();
    match (versions.next(), versions.next()) {
        (Some(version), None) => Ok(version),
        (Some(a), Some(b)) => Err(InjectError::DriverVersions { found: format!("{a} and {b}") }),
        (None, _) => Err(InjectError::NoDriver {
            searched: installed::LIBRARIES.map(|dir| format!("/{dir}")).join(", "),
            outward: leads_out(driver, directories),
        }),
    }
}

/// Returns the first link with a driver's name that leads out of the directory, and its target.
fn leads_out(driver: &RootDir, directories: &Directories) -> Option<(PathBuf, PathBuf)> {
    directories.of_libraries().find_map(|dir| {
        let dir = Path::new("/").join(dir);
        let links = driver.list(&dir).ok()?.into_iter().filter(|entry| entry.kind == EntryType::Link);
        let ours = links
            .filter(|entry| entry.name.to_str().is_some_and(|name| capability::version_of(name).is_some()));
        ours.map(|entry| dir.join(entry.name)).find_map(|path| {
            let target = driver.read_link(&path).ok()?;
            (!driver.exists(&path)).then_some((path, target))
        })
    })
}

/// Returns the libraries. The ELF header of each determines its place, since the name of a directory does not.
fn libraries_in(
    driver: &RootDir,
    directories: &Directories,
    version: &str,
) -> BTreeMap<Placement, DriverFile> {
    let mut found = BTreeMap::new();
    // Libraries for another machine, used only if there is no better one.
    let mut others = BTreeMap::new();
    for dir in directories.of_libraries() {
        for sub in ["", VDPAU] {
            for entry in files_in(driver, &Path::new(dir).join(sub)) {
                let Some(row) = capability::classify(&entry.name, version) else { continue };
                let belongs = match row.kind {
                    Table::Sub(of, _) => of == sub,
                    Table::Library(_) | Table::Exact(_) | Table::Separate(_) => sub.is_empty(),
                    _ => false,
                };
                if !belongs {
                    continue;
                }
                let rest = Path::new(sub).join(&entry.name);
                let (place, into) = match machine_of(driver, &entry.from) {
                    Some(machine) if machine == Machine::NATIVE => (Placement::Library(rest), &mut found),
                    Some(Machine::I386) => (Placement::Library32(rest), &mut found),
                    _ => (Placement::Library(rest), &mut others),
                };
                let file = DriverFile::of_row(row, entry.from, place.clone(), None);
                into.entry(place).or_insert(file);
            }
        }
    }
    for (place, file) in others {
        found.entry(place).or_insert(file);
    }
    found
}

fn machine_of(driver: &RootDir, path: &Path) -> Option<Machine> {
    let elf = elf::read(&driver.open_file(path, MAX_FILE).ok()?).ok()?;
    [Machine::NATIVE, Machine::I386]
        .into_iter()
        .find(|machine| machine.flags(&elf) == Some(machine.native_flags()))
}

fn programs_in(
    driver: &RootDir,
    directories: &Directories,
    version: &str,
) -> BTreeMap<Placement, DriverFile> {
    let mut found: BTreeMap<Placement, DriverFile> = BTreeMap::new();
    for entry in directories.programs.iter().flat_map(|dir| files_in(driver, Path::new(dir))) {
        let row = capability::classify(&entry.name, version);
        let Some(row) = row.filter(|row| matches!(row.kind, Table::Program(_))) else { continue };
        let place = Placement::Program(entry.name.into());
        let file = DriverFile::of_row(row, entry.from, place.clone(), None);
        // A script with a program's name is used only if there is no program.
        let old = found.get(&place).map(|old| is_elf(driver, &old.from));
        if old.is_none() || old == Some(false) && is_elf(driver, &file.from) {
            found.insert(place, file);
        }
    }
    found
}

fn is_elf(driver: &RootDir, path: &Path) -> bool {
    driver.open_file(path, MAX_FILE).is_ok_and(|file| elf::read(&file).is_ok())
}

/// Returns the data files, such as ICD and JSON files, from their path in a container or an installer's directory. Modules
/// of the X server may also be among the libraries.
fn data_in(driver: &RootDir, directories: &Directories, version: &str) -> BTreeMap<Placement, DriverFile> {
    let rows = TABLE.iter().filter_map(|row| match row.kind {
        Table::Data(path) => Some((row, path.replace(capability::VERSION, version))),
        _ => None,
    });
    let there = |(row, path): (&capability::DriverFile, String)| {
        let name = path.rsplit('/').next().unwrap_or(&path).to_owned();
        let is_module = name.contains(".so");
        let among = directories.of_libraries().filter(|_| is_module).map(|dir| format!("{dir}/{name}"));
        let places = [format!("{DRIVER_DATA_DIR}{path}")];
        let mut places = places.into_iter().chain(installed::data_paths(&path, version)).chain(among);
        let from = places.find_map(|place| {
            let from = Path::new("/").join(place);
            driver.open_file(&from, MAX_DATA).ok()?;
            driver.canonical(&from).ok()
        })?;
        let place = Placement::Data(path.into());
        Some((place.clone(), DriverFile::of_row(row, from, place, None)))
    };
    rows.filter_map(there).collect()
}

/// Returns the links in the table whose targets were found.
fn links_among(found: &BTreeMap<Placement, DriverFile>, version: &str) -> Vec<DriverFile> {
    let rows = TABLE.iter().filter_map(|row| match row.kind {
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
            let place = if path.is_absolute() { Placement::Data(path) } else { Placement::Library(path) };
            DriverFile::of_row(row, PathBuf::new(), place, Some(target.into()))
        })
    };
    rows.filter_map(there).collect()
}
