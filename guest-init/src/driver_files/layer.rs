//! Builds the lower layer with the driver, in the container's layout: hard links on the file system of the driver files, or,
//! for a driver on a separate file system, metadata-only files that refer to it.

use std::collections::BTreeSet;
use std::path::Path;

use super::error::{InjectError, in_driver};
use super::inventory::{Inventory, MAX_FILE};
use super::loader_setup::mask;
use super::plan::{PlannedFile, plan};
use super::report::{InjectReport, text};
use super::request::ContainerRequest;
use crate::confined_fs::{EntryType, RootDir, RootError};

/// Where a layer is built. The directories are empty or contain an earlier layer.
#[derive(Debug, Clone, Copy)]
pub enum LayerPlace<'a> {
    /// One tree. On the file system of the driver its files are hard links; on another one they are copied, with a warning,
    /// since in a guest the copies use memory.
    Links(&'a Path),
    /// For a driver on a separate file system.
    Names {
        /// Metadata-only files that refer to the driver's ([`RootDir::stand_in`]). This tree becomes an overlay with the
        /// driver as a data-only layer below it.
        names: &'a Path,
        /// The whiteouts. They need a separate layer above that overlay, which would consume them.
        masks: &'a Path,
    },
}

/// Builds the layer for the container `root`.
///
/// The caller puts the layer **above** the container image in the overlay: it also contains whiteouts that hide other
/// versions of the same files. `upper` is the overlay's upper layer from an earlier boot, if there is one: files there in
/// place of driver files are hidden, since they would take precedence.
///
/// # Errors
/// [`InjectError`]; the layer is then incomplete and must not be mounted.
pub fn layer(
    root: &RootDir,
    driver: &RootDir,
    inventory: &Inventory,
    request: &ContainerRequest,
    place: LayerPlace,
    upper: Option<&RootDir>,
) -> Result<InjectReport, InjectError> {
    let plan = plan(root, driver, inventory, request, &BTreeSet::new())?;
    let paths = plan.paths();
    let mut report = plan.report;
    let (names, masks) = match place {
        LayerPlace::Links(tree) => (tree, tree),
        LayerPlace::Names { names, masks } => (names, masks),
    };
    let (layer, masks) = (RootDir::open(names).map_err(in_layer)?, RootDir::open(masks).map_err(in_layer)?);
    let mut copied = 0_usize;
    for file in &plan.files {
        make_parent(&layer, root, &file.to)?;
        let made = match place {
            LayerPlace::Links(_) => link(&layer, driver, file, &mut copied)?,
            LayerPlace::Names { .. } => {
                layer.stand_in(&file.to, &file.from, file.size, file.mode).map_err(in_layer)?;
                true
            }
        };
        report.changed += usize::from(made);
    }
    if copied > 0 {
        let text = format!(
            "copied {copied} driver files, because the layer is not on the file system of the driver"
        );
        report.warnings.push(text);
    }
    for (path, target) in &plan.links {
        make_parent(&layer, root, path)?;
        if layer.read_link(path).is_ok_and(|old| old.as_os_str() == target) {
            continue;
        }
        layer.symlink(target, path).map_err(in_layer)?;
        report.changed += 1;
    }
    for path in &plan.masks {
        make_parent(&masks, root, path)?;
        match masks.whiteout(path) {
            Ok(made) => {
                report.changed += usize::from(made);
                report.masked.push(text(path));
            }
            Err(error) => report.warnings.push(format!("cannot hide {}: {error}", path.display())),
        }
    }
    let Some(upper) = upper else { return Ok(report) };
    for path in paths {
        match upper.lstat(&path) {
            // A whiteout: the container removed the file.
            Ok(stat) if stat.kind == EntryType::Other => drop(upper.remove_file(&path)),
            Ok(stat) if stat.kind != EntryType::Directory => mask(upper, &path, &mut report),
            _ => {}
        }
    }
    Ok(report)
}

/// Creates a hard link, or a copy if that is not possible. Returns whether anything was created.
fn link(
    layer: &RootDir,
    driver: &RootDir,
    file: &PlannedFile,
    copied: &mut usize,
) -> Result<bool, InjectError> {
    match layer.hard_link(driver, &file.from, &file.to) {
        Ok(made) => Ok(made),
        Err(error) if cannot_link(&error) => {
            let source = driver.open_file(&file.from, MAX_FILE).map_err(in_driver)?;
            layer.stage(&file.to, &source, file.mode).map_err(in_layer)?;
            layer.commit(&file.to).map_err(in_layer)?;
            *copied += 1;
            Ok(true)
        }
        Err(error) => Err(in_layer(error)),
    }
}

/// Creates the parent directory. In an overlay, a directory has the owner and mode of the highest layer that contains it.
fn make_parent(layer: &RootDir, root: &RootDir, path: &Path) -> Result<(), InjectError> {
    layer.mirror_dir_all(root, path.parent().unwrap_or(Path::new("/"))).map_err(in_layer)
}

/// Returns whether hard links are impossible: another file system, or one without hard links.
fn cannot_link(error: &RootError) -> bool {
    matches!(error.raw_os_error(), Some(libc::EXDEV | libc::EPERM | libc::EMLINK | libc::EOPNOTSUPP))
}

fn in_layer(source: RootError) -> InjectError {
    InjectError::Ours { place: "cannot build the layer of driver files", source }
}
