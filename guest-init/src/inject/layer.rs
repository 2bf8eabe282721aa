//! The driver as a lower layer: a tree of hard links beside the driver's files, laid out as the container
//! needs them.

use std::path::Path;

use super::plan::{MAX_FILE, in_driver};
use super::{InjectError, InjectReport, plan, text};
use crate::rootfs::{RootDir, RootError};

/// Builds the layer for the container `root` in the directory `layer`, which is empty or an earlier layer and
/// lies on the file system of `driver`. On another one the files are copied, with a warning: in a guest that
/// is memory.
///
/// The caller puts the layer **above** the container's image in the overlay: it also holds whiteouts that
/// hide other versions of the same files.
///
/// # Errors
/// [`InjectError`]; the layer is then incomplete and must not be mounted.
pub fn layer(root: &RootDir, driver: &RootDir, layer: &Path) -> Result<InjectReport, InjectError> {
    let plan = plan(root, driver)?;
    let mut report = plan.report;
    let layer = RootDir::open(layer).map_err(in_layer)?;
    let mut copied = 0_usize;
    for (from, to, bits) in &plan.files {
        make_parent(&layer, to)?;
        match layer.hard_link(driver, from, to) {
            Ok(made) => report.changed += usize::from(made),
            Err(error) if cannot_link(&error) => {
                let mut file = driver.open_file(from, MAX_FILE).map_err(in_driver)?;
                layer.copy_atomic(to, &mut file, bits.mode()).map_err(in_layer)?;
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
        make_parent(&layer, path)?;
        if layer.read_link(path).is_ok_and(|old| old.as_os_str() == target) {
            continue;
        }
        layer.symlink(target, path).map_err(in_layer)?;
        report.changed += 1;
    }
    for path in plan.masks {
        match layer.whiteout(&path) {
            Ok(made) => {
                report.changed += usize::from(made);
                report.masked.push(text(&path));
            }
            Err(error) => report.warnings.push(format!("{}: not hidden: {error}", path.display())),
        }
    }
    Ok(report)
}

fn make_parent(layer: &RootDir, path: &Path) -> Result<(), InjectError> {
    layer.create_dir_all(path.parent().unwrap_or(Path::new("/"))).map_err(in_layer)
}

/// Another file system, or one that has no hard links.
fn cannot_link(error: &RootError) -> bool {
    matches!(error.raw_os_error(), Some(libc::EXDEV | libc::EPERM | libc::EMLINK | libc::EOPNOTSUPP))
}

fn in_layer(source: RootError) -> InjectError {
    InjectError::Ours { place: "cannot build the driver layer", source }
}
