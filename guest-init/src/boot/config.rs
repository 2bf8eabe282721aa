//! Reads the configuration of a boot: the manifest in the initramfs, the kernel command line, the config disk.

use crate::confined_fs::RootDir;
use crate::kernel::disks;
use crate::status;
use crate::status::Board;
use image::config::{Config, ConfigError, Source};
use image::layout::{self, CONFIG_SERIAL, DEFAULT_CONFIG, DEFAULT_ROOT, DEFAULT_UPPER};
use image::manifest::{MAX_BYTES, Manifest};
use image::status::{Code, Finding, Severity};
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
/// A finding when it is missing, unreadable or newer than this program.
pub fn manifest() -> Result<Manifest, Finding> {
    let invalid = |what: String| {
        status::error(
            Code::ManifestInvalid,
            format!("{}: {what}", layout::MANIFEST),
            "rebuild the initrd with host-builder",
        )
    };
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
/// A finding that names the invalid value; the other keys take effect.
pub fn cmdline(config: &mut Config) -> Result<(), Finding> {
    let text = fs::read_to_string("/proc/cmdline").map_err(|error| {
        status::error(Code::Internal, format!("/proc/cmdline: {error}"), "this is a defect of guest-init")
    })?;
    config.apply_cmdline(&text).map_err(|error| bad_value(&error))
}

fn bad_value(error: &ConfigError) -> Finding {
    status::error(
        Code::ConfigInvalid,
        error.to_string(),
        "correct the value; docs/booting.md lists every key",
    )
}

/// Applies the config disk's file to the configuration, if there is a config disk.
///
/// # Errors
/// A finding if a disk was configured but cannot be used, or if its file has an invalid value.
pub fn config_disk(config: &mut Config) -> Result<(), Finding> {
    let invalid = |what: String| {
        let hint = "put a file config.json into the top directory of the config disk";
        status::error(Code::ConfigInvalid, format!("cannot use the config disk: {what}"), hint)
    };
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
    let bytes = match read(&device) {
        Ok(bytes) => bytes,
        // A disk that was not configured as the config disk may hold anything.
        Err(error) if !named && source == Source::Device(DEFAULT_CONFIG.into()) => {
            log::debug!("{} is not a config disk: {error}", device.display());
            return Ok(());
        }
        Err(error) => return Err(invalid(error)),
    };
    config.apply_json(&bytes).map_err(|error| bad_value(&error))?;
    config.config = Some(source);
    Ok(())
}

/// Checks that the settings of command line and file are consistent.
///
/// # Errors
/// A finding if two settings contradict each other.
pub fn consistent(config: &Config) -> Result<(), Finding> {
    let refused = |what| {
        status::error(
            Code::ConfigInvalid,
            what,
            "remove one of the two settings; docs/booting.md lists every key",
        )
    };
    config.contradiction().map_or(Ok(()), |what| Err(refused(what)))
}

/// Reports unknown keys and keys without effect.
pub fn report_unknown(config: &Config, board: &Board) {
    let say = |what: String| {
        let hint = "correct the spelling of the key or remove it; docs/booting.md lists every key";
        board.finding(status::warning(Code::ConfigUnknownKey, what, hint));
    };
    if !config.without_effect.is_empty() {
        let keys = config.without_effect.join(", ");
        let message = format!("config.json has hypeman keys that have no effect here: {keys}");
        let info = status::warning(
            Code::ConfigUnknownKey,
            message,
            "do nothing: hypeman writes these keys for its own init",
        );
        board.finding(Finding { severity: Severity::Info, ..info });
    }
    for key in config.unknown.iter().take(MAX_UNKNOWN) {
        say(format!("unknown key {key}: it has no effect"));
    }
    if let Some(more) = config.unknown.len().checked_sub(MAX_UNKNOWN).filter(|more| *more > 0) {
        say(format!("{more} more unknown keys: they have no effect"));
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
