//! Adds the driver to the container root, according to the manifest and the container's request, and reports the result
//! on the status board.

use super::error::RootfsError;
use super::overlay;
use crate::confined_fs::RootDir;
use crate::driver_files::layer::LayerPlace;
use crate::driver_files::{self, ContainerRequest, InjectError, InjectReport, Inventory, ItemKind};
use crate::status::Board;
use image::capability::Capability;
use image::config::Config;
use image::layout;
use image::manifest::{Manifest, Payload};
use image::status::{Cache, Injected, Resolved};
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// The driver for a container.
pub struct Driver<'a> {
    /// The container's request.
    request: ContainerRequest,
    /// The manifest of the initrd.
    manifest: &'a Manifest,
    /// Whether the boot fails if the driver is unavailable.
    required: bool,
}

impl<'a> Driver<'a> {
    /// The driver of an initrd, for the container of a boot.
    ///
    /// # Errors
    /// [`RootfsError::Capability`] if the container requests an unknown one.
    pub fn new(config: &Config, manifest: &'a Manifest, required: bool) -> Result<Self, RootfsError> {
        Ok(Self { request: ContainerRequest::of_config(config)?, manifest, required })
    }

    /// The capabilities that the container receives.
    pub fn capabilities(&self) -> &BTreeSet<Capability> {
        &self.request.capabilities
    }

    /// Builds the layer of driver files above the image. Returns `None` if the image cannot use them, or if they cannot be
    /// added and are optional; a finding on the board says why.
    pub(super) fn layer(&self, board: &Board) -> Result<Option<InjectReport>, RootfsError> {
        self.unless_optional(board, self.make_layer(board))
    }

    /// Copies the driver files into a writable root. Returns `None` as [`layer`](Self::layer) does.
    pub(super) fn copy(&self, board: &Board) -> Result<Option<InjectReport>, RootfsError> {
        let copied = || {
            let (root, driver) = (open(layout::ROOT_MERGED)?, open(self.manifest.payload_root())?);
            let inventory = Inventory::of_initrd(self.manifest, &driver);
            report(driver_files::copy::copy(&root, &driver, &inventory, &self.request), board)
        };
        self.unless_optional(board, copied())
    }

    /// Writes the loader cache of the assembled root, and reports which files the loader will find.
    pub(super) fn complete(&self, done: &mut InjectReport, board: &Board) -> Result<(), RootfsError> {
        let completed = open(layout::ROOT_MERGED)
            .and_then(|root| driver_files::complete(&root, &self.request, done).map_err(RootfsError::Cache));
        if completed.is_ok() {
            report_completed(done, board);
        }
        self.unless_optional(board, completed.map(Some)).map(|_| ())
    }

    /// Returns the lower layers with the driver, highest first.
    pub(super) fn layers(&self) -> Vec<&'static str> {
        overlay::driver_layers(self.manifest)
    }

    /// Turns a failure into a warning if the driver is optional.
    fn unless_optional<T>(
        &self,
        board: &Board,
        result: Result<Option<T>, RootfsError>,
    ) -> Result<Option<T>, RootfsError> {
        match result {
            Err(error) if !self.required => {
                board.warn(error);
                Ok(None)
            }
            other => other,
        }
    }

    fn make_layer(&self, board: &Board) -> Result<Option<InjectReport>, RootfsError> {
        let upper = Path::new(layout::ROOT_SCRATCH).join("upper");
        for directory in
            [layout::DRIVER_LAYER, layout::DRIVER_NAMES, layout::DRIVER_MASKS, layout::DRIVER_FILES]
        {
            fs::create_dir_all(directory)
                .map_err(|source| RootfsError::LayerDirectory { directory, source })?;
        }
        let root = open(layout::ROOT_LOWER)?;
        let (driver, upper) = (open(self.manifest.payload_root())?, open(&upper.to_string_lossy())?);
        let inventory = Inventory::of_initrd(self.manifest, &driver);
        let plain = self.manifest.payload == Payload::Files;
        let place = if plain {
            LayerPlace::Links(Path::new(layout::DRIVER_LAYER))
        } else {
            LayerPlace::Names {
                names: Path::new(layout::DRIVER_NAMES),
                masks: Path::new(layout::DRIVER_MASKS),
            }
        };
        let made = driver_files::layer::layer(&root, &driver, &inventory, &self.request, place, Some(&upper));
        let made = report(made, board)?;
        if made.is_some() && !plain {
            overlay::mount_driver_files()?;
        }
        Ok(made)
    }
}

/// Reports the outcome of an injection on the board. An image that cannot use the driver files is not a failure.
fn report(
    result: Result<InjectReport, InjectError>,
    board: &Board,
) -> Result<Option<InjectReport>, RootfsError> {
    let mut report = match result {
        Ok(report) => report,
        Err(error @ InjectError::NoGlibc { .. }) => {
            board.report(error);
            return Ok(None);
        }
        Err(error) => return Err(error.into()),
    };
    report.warnings.iter().for_each(|warning| log::warn!("inject: {warning}"));
    report.notices.drain(..).for_each(|notice| board.report(notice));
    let injected = report.items.iter().map(|item| Injected {
        path: item.path.clone(),
        link: matches!(item.kind, ItemKind::Link).then(|| item.target.clone()),
    });
    board.update(|status| status.injected = injected.collect());
    Ok(Some(report))
}

/// Reports the loader cache, and the files that the loader will find.
fn report_completed(report: &mut InjectReport, board: &Board) {
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
    report.notices.drain(..).for_each(|notice| board.report(notice));
}

fn open(path: &str) -> Result<RootDir, RootfsError> {
    RootDir::open(Path::new(path)).map_err(RootfsError::Open)
}
