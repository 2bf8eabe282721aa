//! Assembles the container root: the host's disk or virtiofs share as the lowest layer, the driver files above it, a writable
//! layer on top. Without an overlay it is the disk itself, with copies of the driver files.

mod driver;
mod error;
mod overlay;
mod sources;

pub use self::driver::Driver;
pub use self::error::RootfsError;
pub use self::sources::disks_of_the_container;

use crate::status::Board;
use image::config::{Config, Source};
use image::layout;
use image::status::{Phase, PhaseOutcome};

/// Mounts the root. With a driver, adds its files and writes the loader cache. Returns whether programs of Nix or Guix
/// need a link to the driver below /run.
///
/// # Errors
/// [`RootfsError`], which ends the boot.
pub fn prepare(config: &Config, driver: Option<&Driver>, board: &Board) -> Result<bool, RootfsError> {
    let in_place = config.upper == Some(Source::None);
    board.phase(Phase::Root, || {
        if in_place {
            sources::mount_writable(config)
        } else {
            sources::mount_root(config, layout::ROOT_LOWER, true)
        }
    })?;
    let Some(driver) = driver else {
        board.begin(Phase::Inject);
        board.end(Phase::Inject, PhaseOutcome::Skipped);
        if !in_place {
            overlay::mount_merged(&sources::upper(config)?, &[])?;
        }
        return Ok(false);
    };
    let report = board.phase(Phase::Inject, || {
        if in_place {
            return driver.copy(board);
        }
        let scratch = sources::upper(config)?;
        let report = driver.layer(board)?;
        overlay::mount_merged(&scratch, &if report.is_some() { driver.layers() } else { Vec::new() })?;
        Ok(report)
    })?;
    let Some(mut report) = report else { return Ok(false) };
    board.phase(Phase::Cache, || driver.complete(&mut report, board))?;
    Ok(report.store)
}
