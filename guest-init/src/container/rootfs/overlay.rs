//! Adds the driver to the container root, according to the manifest and the container's request, and reports the result
//! on the status board.

use crate::confined_fs::{RootDir, RootError};
use crate::driver_files;
use crate::driver_files::layer::LayerPlace;
use crate::driver_files::{ContainerRequest, InjectError, InjectReport, Inventory};
use crate::kernel::kmsg_writer::KernelLog;
use crate::status;
use crate::status::{Board, with_evidence};
use image::config::Config;
use image::layout;
use image::manifest::{Manifest, Payload};
use image::status::{Cache, Code, Finding, Injected, Resolved};
use image::text::chain;
use nix::mount::{MsFlags, mount};
use std::fs;
use std::path::Path;

/// Returns the container's request.
///
/// # Errors
/// The finding that names a capability that does not exist.
pub fn request(config: &Config) -> Result<ContainerRequest, Finding> {
    ContainerRequest::of_config(config).map_err(|error| {
        let hint = "correct NVIDIA_DRIVER_CAPABILITIES in the environment of the image or the configuration";
        status::error(Code::ConfigInvalid, error.to_string(), hint)
    })
}

/// Builds the layer of driver files above the image. Returns `None` if the image cannot use them; a finding on the board
/// says why.
///
/// # Errors
/// The finding that says why it cannot be built.
pub fn layer(
    manifest: &Manifest,
    request: &ContainerRequest,
    board: &Board,
) -> Result<Option<InjectReport>, Finding> {
    let upper = Path::new(layout::ROOT_SCRATCH).join("upper");
    let directories =
        [layout::DRIVER_LAYER, layout::DRIVER_NAMES, layout::DRIVER_MASKS, layout::DRIVER_FILES];
    for directory in directories {
        fs::create_dir_all(directory).map_err(|error| failed(Code::InjectFailed, &error.to_string()))?;
    }
    let root = open(layout::ROOT_LOWER)?;
    let (driver, upper) = (open(manifest.payload_root())?, open(&upper.to_string_lossy())?);
    let inventory = Inventory::of_manifest(manifest);
    let plain = manifest.payload == Payload::Files;
    let place = if plain {
        LayerPlace::Links(Path::new(layout::DRIVER_LAYER))
    } else {
        LayerPlace::Names { names: Path::new(layout::DRIVER_NAMES), masks: Path::new(layout::DRIVER_MASKS) }
    };
    let made = driver_files::layer::layer(&root, &driver, &inventory, request, place, Some(&upper));
    let report = told(made, board)?;
    if report.is_some() && !plain {
        mount_files()?;
    }
    Ok(report)
}

/// Returns the lower layers of the container's overlay that contain the driver, highest first.
pub fn layers(manifest: &Manifest) -> Vec<&'static str> {
    if manifest.payload == Payload::Files {
        vec![layout::DRIVER_LAYER]
    } else {
        vec![layout::DRIVER_MASKS, layout::DRIVER_FILES]
    }
}

/// Mounts an overlay that provides the content of the metadata-only files. It is separate from the overlay with the image,
/// because in that one the kernel would also honour metacopy attributes in the image's file system.
fn mount_files() -> Result<(), Finding> {
    let options = format!("lowerdir={}::{},metacopy=on", layout::DRIVER_NAMES, layout::PAYLOAD_MOUNT);
    let flags = MsFlags::MS_RDONLY | MsFlags::MS_NODEV;
    let mut log = KernelLog::here();
    mount(Some("overlay"), layout::DRIVER_FILES, Some("overlay"), flags, Some(options.as_str())).map_err(|errno| {
        let message = format!("cannot mount the driver files as a layer ({options}): {errno}");
        let hint = "boot the kernel that build-initrd wrote next to the initrd (Linux 6.5 or later), or build the initrd with --payload files";
        with_evidence(status::error(Code::InjectFailed, message, hint), log.lines())
    })
}

/// Copies the driver files into a writable root. Returns `None` as [`layer`] does.
///
/// # Errors
/// The finding that says why it cannot be done.
pub fn copy(
    manifest: &Manifest,
    request: &ContainerRequest,
    board: &Board,
) -> Result<Option<InjectReport>, Finding> {
    let (root, driver) = (open(layout::ROOT_MERGED)?, open(manifest.payload_root())?);
    told(driver_files::copy::copy(&root, &driver, &Inventory::of_manifest(manifest), request), board)
}

/// Writes the loader cache of the assembled root, and reports which files the loader will find.
///
/// # Errors
/// The finding that says what cannot be written.
pub fn complete(request: &ContainerRequest, report: &mut InjectReport, board: &Board) -> Result<(), Finding> {
    let root = open(layout::ROOT_MERGED)?;
    driver_files::complete(&root, request, report)
        .map_err(|error| failed(Code::CacheFailed, &chain(&error)))?;
    let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
    let cache = report.cache.as_ref().map(|cache| Cache {
        entries: count(cache.entries),
        bytes: cache.bytes as u64,
        links: count(cache.links.len()),
    });
    let resolved = report.resolved.iter().map(|item| Resolved {
        name: item.soname.clone(),
        path: item.file.clone(),
        version: item.version.clone(),
        ours: item.expected,
    });
    let resolved = resolved.collect();
    board.update(|status| (status.cache, status.resolved) = (cache, resolved));
    let warnings = report.cache.iter().flat_map(|cache| &cache.warnings);
    warnings.for_each(|warning| log::debug!("loader cache: {warning}"));
    report.findings.drain(..).for_each(|finding| board.finding(finding));
    Ok(())
}

/// Converts a failed injection into a finding. An image that cannot use the driver files is a warning.
pub fn finding(error: InjectError) -> Finding {
    match error {
        InjectError::Refused(finding) => *finding,
        InjectError::NoGlibc { .. } => {
            let hint = "use an image with glibc (Debian, Ubuntu, RHEL, distroless), or add glibc to this one";
            status::warning(Code::ImageHasNoGlibc, chain(&error), hint)
        }
        InjectError::NoSpace { .. } => failed(Code::NoSpace, &chain(&error)),
        error => failed(Code::InjectFailed, &chain(&error)),
    }
}

/// Reports the outcome of an injection on the board.
fn told(result: Result<InjectReport, InjectError>, board: &Board) -> Result<Option<InjectReport>, Finding> {
    let mut report = match result {
        Ok(report) => report,
        Err(error) => {
            let finding = finding(error);
            if finding.code == Code::ImageHasNoGlibc {
                board.finding(finding);
                return Ok(None);
            }
            return Err(finding);
        }
    };
    report.warnings.iter().for_each(|warning| log::warn!("inject: {warning}"));
    report.findings.drain(..).for_each(|finding| board.finding(finding));
    let injected = report.items.iter().map(|item| Injected {
        path: item.path.clone(),
        link: matches!(item.kind, driver_files::ItemKind::Link).then(|| item.target.clone()),
    });
    board.update(|status| status.injected = injected.collect());
    Ok(Some(report))
}

fn open(path: &str) -> Result<RootDir, Finding> {
    RootDir::open(Path::new(path)).map_err(|error: RootError| failed(Code::InjectFailed, &chain(&error)))
}

fn failed(code: Code, what: &str) -> Finding {
    let (message, hint) = match code {
        Code::NoSpace => (
            what.to_owned(),
            "enlarge the root disk, or boot with an overlay, which needs no copies (gpu_initrd.upper=tmpfs)",
        ),
        Code::CacheFailed => (
            format!("cannot write the loader cache: {what}"),
            "remove the obstacle at the path in the message from the image; until then programs may not find the driver",
        ),
        _ => (
            format!("cannot add the driver files to the container: {what}"),
            "repair the path in the message; the image needs an intact /usr/lib and /etc",
        ),
    };
    status::error(code, message, hint)
}
