//! The driver as a lower layer: a tree of hard links beside the driver's files, laid out as the container
//! needs them.

use std::collections::BTreeSet;
use std::path::Path;

use super::complete::mask;
use super::plan::{MAX_FILE, in_driver};
use super::{InjectError, InjectReport, Inventory, Request, plan, text};
use crate::rootfs::{Kind, RootDir, RootError};

/// Builds the layer for the container `root` in the directory `layer`, which is empty or an earlier layer and
/// lies on the file system of `driver`. On another one the files are copied, with a warning: in a guest that
/// is memory.
///
/// The caller puts the layer **above** the container's image in the overlay: it also holds whiteouts that
/// hide other versions of the same files. `upper`, if there is one, is the overlay's upper layer from an earlier boot:
/// what stands there at the place of a driver's file is hidden, since it would win.
///
/// # Errors
/// [`InjectError`]; the layer is then incomplete and must not be mounted.
pub fn layer(
    root: &RootDir,
    driver: &RootDir,
    inventory: &Inventory,
    request: &Request,
    layer: &Path,
    upper: Option<&RootDir>,
) -> Result<InjectReport, InjectError> {
    let plan = plan(root, driver, inventory, request, &BTreeSet::new())?;
    let paths = plan.paths();
    let mut report = plan.report;
    let layer = RootDir::open(layer).map_err(in_layer)?;
    let mut copied = 0_usize;
    for file in &plan.files {
        make_parent(&layer, root, &file.to)?;
        match layer.hard_link(driver, &file.from, &file.to) {
            Ok(made) => report.changed += usize::from(made),
            Err(error) if cannot_link(&error) => {
                let source = driver.open_file(&file.from, MAX_FILE).map_err(in_driver)?;
                layer.stage(&file.to, &source, file.mode).map_err(in_layer)?;
                layer.commit(&file.to).map_err(in_layer)?;
                copied += 1;
                report.changed += 1;
            }
            Err(error) => return Err(in_layer(error)),
        }
    }
    if copied > 0 {
        let text = format!("{copied} driver files copied: the layer is not on the file system of the driver");
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
        make_parent(&layer, root, path)?;
        match layer.whiteout(path) {
            Ok(made) => {
                report.changed += usize::from(made);
                report.masked.push(text(path));
            }
            Err(error) => report.warnings.push(format!("{}: not hidden: {error}", path.display())),
        }
    }
    let Some(upper) = upper else { return Ok(report) };
    for path in paths {
        match upper.lstat(&path) {
            // A whiteout: the container removed it.
            Ok(stat) if stat.kind == Kind::Other => drop(upper.remove_file(&path)),
            Ok(stat) if stat.kind != Kind::Directory => mask(upper, &path, &mut report),
            _ => {}
        }
    }
    Ok(report)
}

/// In an overlay the owner and mode of a directory are those of the highest layer that has it.
fn make_parent(layer: &RootDir, root: &RootDir, path: &Path) -> Result<(), InjectError> {
    layer.mirror_dir_all(root, path.parent().unwrap_or(Path::new("/"))).map_err(in_layer)
}

/// Another file system, or one that has no hard links.
fn cannot_link(error: &RootError) -> bool {
    matches!(error.raw_os_error(), Some(libc::EXDEV | libc::EPERM | libc::EMLINK | libc::EOPNOTSUPP))
}

fn in_layer(source: RootError) -> InjectError {
    InjectError::Ours { place: "cannot build the driver layer", source }
}
