//! The files to look for in a driver's packages: from the driver's own list if it has one, else
//! from our table.

use super::filelist;
use super::selected::Destination;
use crate::artifacts::tree::Tree;
use crate::common::error::Result;
use image::capability::{Capability, DriverFile, Kind, TABLE, VERSION};
use std::collections::{BTreeMap, BTreeSet};

/// One file to look for.
#[derive(Debug, Clone)]
pub struct WantedFile {
    /// File name; for a library with a version in its name, the stem.
    pub name: String,
    /// Its row of the table, if there is one.
    pub row: Option<&'static DriverFile>,
    /// Where it belongs.
    pub place: Destination,
    /// The selected capabilities that it belongs to, sorted.
    pub capabilities: Vec<Capability>,
    /// Whether an image requires it.
    pub required: bool,
}

impl WantedFile {
    /// Whether this is the file's name.
    pub fn is(&self, file_name: &str, driver: &str) -> bool {
        self.row.map_or(self.name == file_name, |row| row.is(file_name, driver))
    }
}

/// The files of these capabilities, and notes on what was skipped.
pub fn wanted(
    trees: &[Tree],
    capabilities: &BTreeSet<Capability>,
    driver: &str,
) -> Result<(Vec<WantedFile>, Vec<String>)> {
    let Some(list) = filelist::read(trees, driver)? else {
        let rows = TABLE.iter().filter_map(|row| of_row(row, row.capabilities, capabilities, driver));
        return Ok((rows.collect(), Vec::new()));
    };
    Ok((of_list(&list.files, capabilities, driver), list.notes(capabilities)))
}

/// Selects from the driver's list. Files that the list lacks but every driver has come from the
/// table, because a category that we do not know must not remove a file.
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
