//! Reads the configuration of a boot: the manifest in the initramfs, the kernel command line, the config disk.

use super::error::BootError;
use crate::confined_fs::RootDir;
use crate::kernel::bounded::bounded;
use crate::kernel::disks;
use crate::status::Board;
use image::config::{Config, Source};
use image::layout::{self, CONFIG_SERIAL, DEFAULT_CONFIG, DEFAULT_ROOT, DEFAULT_UPPER};
use image::manifest::{MAX_BYTES, Manifest};
use image::text::chain;
use std::fs;
use std::path::Path;

/// Maximum number of unknown keys that are reported one by one.
const MAX_UNKNOWN: usize = 8;
/// Maximum size of a config file in bytes.
const MAX_CONFIG: u64 = 1 << 20;
/// Disks that are identified by their positions.
const USUAL: [&str; 3] = [DEFAULT_ROOT, DEFAULT_UPPER, DEFAULT_CONFIG];

/// Reads the manifest that host-builder wrote.
///
/// # Errors
/// [`BootError::Manifest`] if it is missing, unreadable or newer than this program.
pub fn manifest() -> Result<Manifest, BootError> {
    let invalid = |what: String| BootError::Manifest { what };
    let size = fs::metadata(layout::MANIFEST).map_err(|error| invalid(error.to_string()))?.len();
    if size > MAX_BYTES {
        return Err(invalid(format!("expected at most {MAX_BYTES} bytes, found {size}")));
    }
    let bytes = fs::read(layout::MANIFEST).map_err(|error| invalid(error.to_string()))?;
    Manifest::from_json(&bytes).map_err(|error| invalid(chain(&error)))
}

/// Reads the kernel command line into the configuration.
///
/// # Errors
/// [`BootError::Value`] that names the invalid value; the other keys take effect.
pub fn cmdline(config: &mut Config) -> Result<(), BootError> {
    let text = fs::read_to_string("/proc/cmdline").map_err(BootError::CommandLine)?;
    config.apply_cmdline(&text).map_err(BootError::Value)
}

/// Applies the config disk's file to the configuration, if there is a config disk.
///
/// # Errors
/// [`BootError`] if a disk was configured but cannot be used, or if its file has an invalid value.
pub fn config_disk(config: &mut Config) -> Result<(), BootError> {
    let invalid = |what: String| BootError::ConfigDisk { what };
    let (source, named) = match config.config.clone() {
        Some(Source::None) => return Ok(()),
        Some(source) => (source, true),
        None => {
            let usual = [Source::Serial(CONFIG_SERIAL.into()), Source::Device(DEFAULT_CONFIG.into())];
            // The third disk is the config disk only if the position is all that identifies the disks.
            let by_place =
                config.root.is_none() && config.upper.is_none() && disks::are_without_serials(USUAL);
            let is_it = |source: &Source| match source {
                Source::Device(_) => by_place && disks::look(source).is_some(),
                _ => disks::look(source).is_some(),
            };
            match usual.into_iter().find(is_it) {
                Some(source) => (source, false),
                None => return Ok(()),
            }
        }
    };
    let device = disks::find(&source, config.disk_timeout).map_err(|error| invalid(chain(&error)))?;
    let found = device.clone();
    let bytes = bounded(format!("reading the config disk {}", device.display()), move || read(&found));
    let bytes = match bytes.unwrap_or_else(|error| Err(error.to_string())) {
        Ok(bytes) => bytes,
        // A disk that was not configured as the config disk may hold anything.
        Err(error) if !named && source == Source::Device(DEFAULT_CONFIG.into()) => {
            log::debug!("{} is not a config disk: {error}", device.display());
            return Ok(());
        }
        Err(error) => return Err(invalid(error)),
    };
    config.apply_json(&bytes)?;
    config.config = Some(source);
    Ok(())
}

/// Checks that the settings of command line and file are consistent.
///
/// # Errors
/// [`BootError::Contradiction`] if two settings contradict each other.
pub fn consistent(config: &Config) -> Result<(), BootError> {
    config.contradiction().map_or(Ok(()), |what| Err(BootError::Contradiction(what.to_owned())))
}

/// Reports unknown keys and keys without effect.
pub fn report_unknown(config: &Config, board: &Board) {
    if !config.without_effect.is_empty() {
        board.report(BootError::KeysWithoutEffect(config.without_effect.join(", ")));
    }
    for key in config.unknown.iter().take(MAX_UNKNOWN) {
        board.report(BootError::UnknownKey(key.clone()));
    }
    if let Some(more) = config.unknown.len().checked_sub(MAX_UNKNOWN).filter(|more| *more > 0) {
        board.report(BootError::MoreUnknownKeys(more));
    }
}

fn read(device: &Path) -> Result<Vec<u8>, String> {
    let mount_point = Path::new(layout::CONFIG_MOUNT);
    disks::mount_disk(device, mount_point, true).map_err(|error| chain(&error))?;
    let result = RootDir::open(mount_point)
        .and_then(|root| root.read(Path::new(layout::CONFIG_FILE), MAX_CONFIG))
        .map_err(|error| chain(&error));
    if let Err(errno) = disks::unmount_disk(device, mount_point) {
        log::warn!("cannot unmount the config disk: {errno}");
    }
    result
}
