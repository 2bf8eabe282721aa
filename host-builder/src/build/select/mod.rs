//! Selects the driver files of an image: from capabilities, as containers request them, to files,
//! as the driver ships them.

mod cuda;
mod filelist;
mod find;
mod needs;
mod selected;
mod wanted;

pub use self::needs::Need;
pub use self::selected::{Link, Selected};

use self::find::{FoundFile, Width};
use self::selected::{Destination, reason};
use self::wanted::WantedFile;
use crate::artifacts::tree::Tree;
use crate::common::error::{Error, Result};
use crate::common::files::base_name;
use image::capability::{Capability, Kind, TABLE, VERSION, requested};
use image::layout;
use std::collections::BTreeSet;

/// The files for a set of capabilities.
#[derive(Debug, Default)]
pub struct Selection {
    /// Files.
    pub files: Vec<Selected>,
    /// Links.
    pub links: Vec<Link>,
    /// The CUDA version in the files, such as `12.4`.
    pub cuda: Option<String>,
    /// Libraries that the container must bring.
    pub needs: Vec<Need>,
    /// Notes on what was skipped.
    pub notes: Vec<String>,
}

/// Reads a list of capability names; `all` means all of them.
pub fn capabilities(list: &[String]) -> Result<BTreeSet<Capability>> {
    let known = format!("known: all, {}", Capability::ALL.map(Capability::name).join(", "));
    if list.iter().all(|word| word.trim().is_empty()) {
        return Err(Error::new("no capability is selected").hint(known));
    }
    let set = requested(Some(&list.join(","))).map_err(|error| Error::new(error.to_string()).hint(known))?;
    if set == BTreeSet::from([Capability::Compat32]) {
        return Err(Error::new(
            "capability compat32 alone selects nothing: it selects the 32-bit form of other capabilities",
        )
        .hint("add the others: --capabilities compute,utility,compat32"));
    }
    Ok(set)
}

/// How to handle a missing file that every driver has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Absent {
    /// An error: the packages are wrong.
    IsAnError,
    /// A note, unless the file is in `CORE`: the publisher of the archive left it out.
    IsNoted,
}

/// Files that cannot be left out: CUDA does not work without them.
const CORE: [&str; 4] = ["libcuda", "libnvidia-ptxjitcompiler", "libnvidia-nvvm", "libnvidia-ml"];

/// Selects the files of these capabilities from unpacked packages, with every library that they
/// need. `compat32`: the packages with 32-bit libraries.
pub fn select(
    trees: &[Tree],
    compat32: &[Tree],
    capabilities: &BTreeSet<Capability>,
    driver: &str,
    absent: Absent,
) -> Result<Selection> {
    let (wanted, mut notes) = wanted::wanted(trees, capabilities, driver)?;
    let mut found = Vec::new();
    for wanted in &wanted {
        match find::find(trees, wanted, Width::Native, driver)? {
            Some(file) => found.push(file),
            None if !wanted.required => {}
            None if absent == Absent::IsNoted && !CORE.contains(&stem(&wanted.name)) => {
                notes.push(format!(
                    "{} is not in the artifacts ({})",
                    wanted.name,
                    reason(&wanted.capabilities)
                ));
            }
            None => return Err(absent_error(trees, wanted, driver)),
        }
    }
    if capabilities.contains(&Capability::Compat32) {
        let libraries = wanted.iter().filter(|wanted| matches!(wanted.place, Destination::Library(_)));
        for wanted in libraries {
            found.extend(find::find(compat32, wanted, Width::Compat32, driver)?);
        }
    }
    check_empty(&found, capabilities)?;
    let needs = needs::check(&found)?;
    needs::check_data(&found)?;
    let links = links(&found, capabilities, driver);
    let files: Vec<Selected> = found.into_iter().map(|found| found.file).collect();
    Ok(Selection { cuda: cuda::version_of(&files)?, files, links, needs, notes })
}

/// `libcuda` of `libcuda.so.550.163.01`.
fn stem(name: &str) -> &str {
    name.split(".so.").next().unwrap_or(name)
}

fn absent_error(trees: &[Tree], wanted: &WantedFile, driver: &str) -> Error {
    let stem = stem(&wanted.name);
    let files = trees.iter().flat_map(|tree| &tree.files).map(|file| base_name(&file.path));
    let other: Vec<_> = files.filter(|file| file.starts_with(&format!("{stem}.so."))).collect();
    let found = if other.is_empty() { "no file with that name".to_owned() } else { other.join(", ") };
    Error::new(format!(
        "{} of driver {driver} expects {}, the packages have {found}",
        reason(&wanted.capabilities),
        wanted.name
    ))
    .hint(format!(
        "the packages are not those of this driver; resolve again (build-initrd --update-lock), or add the package to the profile ([userspace.{}])",
        wanted.capabilities.first().copied().unwrap_or(Capability::Compute)
    ))
}

fn check_empty(found: &[FoundFile], capabilities: &BTreeSet<Capability>) -> Result<()> {
    let has =
        |capability: &Capability| found.iter().any(|found| found.file.capabilities.contains(capability));
    match capabilities.iter().find(|capability| !has(capability)) {
        None => Ok(()),
        Some(empty) => Err(Error::new(format!(
            "capability {empty} is selected, and no package has a file for it"
        ))
        .hint(format!("add packages to the profile ([userspace.{empty}]), or leave the capability out"))),
    }
}

/// The table's links to a selected file, by its name or its SONAME.
fn links(found: &[FoundFile], capabilities: &BTreeSet<Capability>, driver: &str) -> Vec<Link> {
    let mut links = Vec::new();
    for row in TABLE {
        let Kind::Link { dir, name, target } = row.kind else { continue };
        let belongs: Vec<_> = row.capabilities.iter().copied().filter(|c| capabilities.contains(c)).collect();
        let target = target.replace(VERSION, driver);
        let leads_to = |found: &&FoundFile| found.answers_to(base_name(&target));
        for to in found.iter().filter(|_| !belongs.is_empty()).filter(leads_to) {
            let base = if dir.starts_with('/') { layout::DRIVER_DATA_DIR } else { to.width.library_dir() };
            let belongs = to.width.capabilities(&belongs);
            links.push(Link {
                path: [base, dir.trim_start_matches('/'), name]
                    .iter()
                    .filter(|part| !part.is_empty())
                    .copied()
                    .collect::<Vec<_>>()
                    .join("/"),
                target: target.clone(),
                origin: to.file.origin.clone(),
                reason: reason(&belongs),
                capabilities: belongs,
            });
        }
    }
    links
}

#[cfg(test)]
mod tests;
