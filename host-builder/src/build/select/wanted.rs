//! What to look for in a driver's packages: what the driver's own list says, where it has one, else our table.

use super::filelist;
use super::selected::Destination;
use crate::artifacts::tree::Tree;
use crate::common::error::Result;
use image::capability::{Capability, DriverFile, Kind, TABLE, VERSION};
use std::collections::{BTreeMap, BTreeSet};

/// One file to look for.
#[derive(Debug, Clone)]
pub struct WantedFile {
    /// Its name; for a library with a version of its own, the stem.
    pub name: String,
    /// Its row of the table, if it has one.
    pub row: Option<&'static DriverFile>,
    /// Where it goes.
    pub place: Destination,
    /// The selected capabilities that it belongs to, sorted.
    pub capabilities: Vec<Capability>,
    /// Whether the image cannot be without it.
    pub required: bool,
}

impl WantedFile {
    /// Whether a file of this name is it.
    pub fn is(&self, file_name: &str, driver: &str) -> bool {
        self.row.map_or(self.name == file_name, |row| row.is(file_name, driver))
    }
}

/// The files of some capabilities, and notes of what was passed over.
pub fn wanted(
    trees: &[Tree],
    capabilities: &BTreeSet<Capability>,
    driver: &str,
) -> Result<(Vec<WantedFile>, Vec<String>)> {
    let Some(list) = filelist::read(trees, driver)? else {
        let rows = TABLE.iter().filter_map(|row| of_row(row, row.capabilities, capabilities, driver));
        return Ok((rows.collect(), Vec::new()));
    };
    Ok((of_list(&list.files, capabilities, driver), list.notes))
}

/// The list decides for every file that it names. What it leaves out and no driver is without comes from the table: a
/// category that we do not know must not take a file away.
fn of_list(
    files: &BTreeMap<String, filelist::Listed>,
    capabilities: &BTreeSet<Capability>,
    driver: &str,
) -> Vec<WantedFile> {
    let mut wanted = Vec::new();
    for row in TABLE {
        let listed = files.iter().find(|(name, _)| row.is(name, driver));
        match listed {
            Some((_, listed)) => wanted.extend(of_row(row, &listed.capabilities, capabilities, driver)),
            None if row.required => wanted.extend(of_row(row, row.capabilities, capabilities, driver)),
            None => {}
        }
    }
    let unknown = files.iter().filter(|(name, _)| !TABLE.iter().any(|row| row.is(name, driver)));
    for (name, listed) in unknown {
        let belongs = both(&listed.capabilities, capabilities);
        if !belongs.is_empty() {
            wanted.push(WantedFile {
                name: name.clone(),
                row: None,
                place: listed.place.clone(),
                capabilities: belongs,
                required: false,
            });
        }
    }
    wanted
}

fn of_row(
    row: &'static DriverFile,
    belongs: &[Capability],
    capabilities: &BTreeSet<Capability>,
    driver: &str,
) -> Option<WantedFile> {
    let place = match row.kind {
        Kind::Library(_) | Kind::Exact(_) | Kind::Separate(_) => Destination::Library(""),
        Kind::Sub(dir, _) => Destination::Library(dir),
        Kind::Program(_) => Destination::Program,
        Kind::Data(path) => Destination::Data(path.replace(VERSION, driver)),
        Kind::Link { .. } => return None,
    };
    let name = match row.kind {
        Kind::Separate(stem) => stem.to_owned(),
        _ => row.file_name(driver)?,
    };
    let capabilities = both(belongs, capabilities);
    (!capabilities.is_empty()).then_some(WantedFile {
        name,
        row: Some(row),
        place,
        capabilities,
        required: row.required,
    })
}

fn both(belongs: &[Capability], asked: &BTreeSet<Capability>) -> Vec<Capability> {
    belongs.iter().copied().filter(|capability| asked.contains(capability)).collect()
}
