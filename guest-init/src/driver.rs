//! The driver in the container's root: puts it in, by the plan of the initrd and the container's request, and says on
//! the board what came of it.

use crate::inject::{self, InjectError, InjectReport, Inventory, Request};
use crate::report::{self, Board, chain};
use crate::rootfs::{RootDir, RootError};
use image::config::Config;
use image::layout;
use image::manifest::Manifest;
use image::status::{Cache, Code, Finding, Injected, Resolved};
use std::fs;
use std::path::Path;

/// What the container asks for.
///
/// # Errors
/// The finding that names a capability that does not exist.
pub fn request(config: &Config) -> Result<Request, Finding> {
    Request::of_config(config).map_err(|error| {
        let hint = "correct NVIDIA_DRIVER_CAPABILITIES in the image's or the configuration's environment";
        report::error(Code::ConfigInvalid, error.to_string(), hint)
    })
}

/// Builds the layer of driver files that goes above the image. `None` when the image cannot use them; the board says
/// why.
///
/// # Errors
/// The finding that says why it cannot be built.
pub fn layer(manifest: &Manifest, request: &Request, board: &Board) -> Result<Option<InjectReport>, Finding> {
    let upper = Path::new(layout::ROOT_SCRATCH).join("upper");
    fs::create_dir_all(layout::DRIVER_LAYER)
        .map_err(|error| failed(Code::InjectFailed, &error.to_string()))?;
    let (root, driver, upper) = (open(layout::ROOT_LOWER)?, open("/")?, open(&upper.to_string_lossy())?);
    let inventory = Inventory::of_manifest(manifest);
    let place = Path::new(layout::DRIVER_LAYER);
    let made = inject::layer::layer(&root, &driver, &inventory, request, place, Some(&upper));
    told(made, board)
}

/// Copies the driver's files into a root that is written to. `None` as with [`layer`].
///
/// # Errors
/// The finding that says why it cannot be done.
pub fn copy(manifest: &Manifest, request: &Request, board: &Board) -> Result<Option<InjectReport>, Finding> {
    let (root, driver) = (open(layout::ROOT_MERGED)?, open("/")?);
    told(inject::copy::copy(&root, &driver, &Inventory::of_manifest(manifest), request), board)
}

/// The loader cache of the assembled root, and what the loader will find.
///
/// # Errors
/// The finding that says what cannot be written.
pub fn complete(request: &Request, report: &mut InjectReport, board: &Board) -> Result<(), Finding> {
    let root = open(layout::ROOT_MERGED)?;
    inject::complete(&root, request, report).map_err(|error| failed(Code::CacheFailed, &chain(&error)))?;
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

/// Puts the outcome of an injection on the board.
fn told(result: Result<InjectReport, InjectError>, board: &Board) -> Result<Option<InjectReport>, Finding> {
    let mut report = match result {
        Ok(report) => report,
        Err(error @ InjectError::NoGlibc { .. }) => {
            let hint = "use an image with glibc (Debian, Ubuntu, RHEL, distroless), or add glibc to this one";
            board.finding(report::warning(Code::ImageHasNoGlibc, chain(&error), hint));
            return Ok(None);
        }
        Err(InjectError::Refused(finding)) => return Err(*finding),
        Err(error) => {
            let code = match error {
                InjectError::NoSpace { .. } => Code::NoSpace,
                _ => Code::InjectFailed,
            };
            return Err(failed(code, &chain(&error)));
        }
    };
    report.warnings.iter().for_each(|warning| log::warn!("inject: {warning}"));
    report.findings.drain(..).for_each(|finding| board.finding(finding));
    let injected = report.items.iter().map(|item| Injected {
        path: item.path.clone(),
        link: matches!(item.kind, inject::ItemKind::Link).then(|| item.target.clone()),
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
            "give the root's disk more room, or boot with an overlay (gpu_initrd.upper=tmpfs): then nothing is copied",
        ),
        Code::CacheFailed => (
            format!("the loader cache cannot be written: {what}"),
            "the container's programs may not find the driver; the message names the path that is in the way",
        ),
        _ => (
            format!("driver files cannot be put into the container: {what}"),
            "the message names the path; an image with a broken /usr/lib or /etc cannot be given a driver",
        ),
    };
    report::error(code, message, hint)
}
