//! The sources of a container root: the host's disk or virtiofs share, and the file system of the upper layer.

use super::error::RootfsError;
use crate::kernel::bounded::bounded;
use crate::kernel::disks;
use crate::kernel::disks::{DiskError, Scratch};
use crate::kernel::modules;
use image::config::{Config, Source};
use image::layout::{
    self, CONFIG_SERIAL, DEFAULT_CONFIG, DEFAULT_ROOT, DEFAULT_UPPER, ROOT_SERIAL, UPPER_SERIAL,
};
use nix::mount::{MsFlags, mount};
use nix::sys::statvfs::{FsFlags, statvfs};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Pause between two looks for the default disks.
const PAUSE: Duration = Duration::from_millis(20);

/// Mounts the root itself, writable.
pub fn mount_writable(config: &Config) -> Result<(), RootfsError> {
    mount_root(config, layout::ROOT_MERGED, false)?;
    let read_only = statvfs(layout::ROOT_MERGED).is_ok_and(|stat| stat.flags().contains(FsFlags::ST_RDONLY));
    if read_only { Err(RootfsError::ReadOnly) } else { Ok(()) }
}

/// Mounts the container image on `target`.
pub fn mount_root(config: &Config, target: &str, read_only: bool) -> Result<(), RootfsError> {
    let target = Path::new(target);
    let source = match &config.root {
        Some(source) => source.clone(),
        None => first_present(&usual_roots(), config)?,
    };
    match &source {
        Source::Virtiofs(tag) => {
            let mut flags = MsFlags::MS_NODEV;
            flags.set(MsFlags::MS_RDONLY, read_only);
            modules::request("fs-virtiofs");
            let (share, target) = (tag.clone(), target.to_owned());
            let mounted = bounded(format!("mounting virtiofs tag {tag}"), move || {
                mount(Some(share.as_str()), &target, Some("virtiofs"), flags, None::<&str>)
            });
            mounted
                .map_err(|error| RootfsError::Disk(error.into()))?
                .map_err(|errno| RootfsError::Virtiofs { tag: tag.clone(), errno })
        }
        Source::Tmpfs | Source::None => Err(RootfsError::Unsupported(source.to_string())),
        disk => {
            let device = disks::find(disk, config.disk_timeout).map_err(RootfsError::Disk)?;
            disks::mount_disk(&device, target, read_only).map_err(RootfsError::Disk)
        }
    }
}

/// Default sources of the root, in order of preference.
fn usual_roots() -> [Source; 2] {
    [Source::Serial(ROOT_SERIAL.into()), Source::Device(DEFAULT_ROOT.into())]
}

/// Returns the present disks among container root, upper layer and config disk.
pub fn disks_of_the_container(config: &Config) -> Vec<PathBuf> {
    let sources = [
        config.upper.clone().unwrap_or_else(|| default_upper(config)),
        config.config.clone().unwrap_or_else(|| Source::Serial(CONFIG_SERIAL.into())),
    ];
    let root = match &config.root {
        Some(source) => disks::look(source),
        None => usual_roots().iter().find_map(disks::look),
    };
    root.into_iter().chain(sources.iter().filter_map(disks::look)).collect()
}

/// Waits until one of the sources is present, and returns the first one.
fn first_present(sources: &[Source], config: &Config) -> Result<Source, RootfsError> {
    let deadline = Instant::now() + config.disk_timeout;
    loop {
        if let Some(source) = sources.iter().find(|source| disks::look(source).is_some()) {
            return Ok(source.clone());
        }
        modules::for_devices();
        if Instant::now() >= deadline {
            let names: Vec<_> = sources.iter().map(ToString::to_string).collect();
            let waited = config.disk_timeout.as_secs();
            return Err(RootfsError::NoDisk { waited, names: names.join(", ") });
        }
        std::thread::sleep(PAUSE);
    }
}

/// Prepares the layer for the container's writes.
pub fn upper(config: &Config) -> Result<Scratch, RootfsError> {
    mount_scratch(config).map_err(RootfsError::Upper)?;
    Scratch::of(Path::new(layout::ROOT_SCRATCH)).map_err(RootfsError::Scratch)
}

/// Mounts the file system of the upper layer.
fn mount_scratch(config: &Config) -> Result<(), DiskError> {
    let target = Path::new(layout::ROOT_SCRATCH);
    let source = config.upper.clone().unwrap_or_else(|| default_upper(config));
    if matches!(source, Source::Tmpfs | Source::None | Source::Virtiofs(_)) {
        return mount(Some("tmpfs"), target, Some("tmpfs"), MsFlags::MS_NODEV, Some("mode=0755"))
            .map_err(|errno| DiskError::Refused { what: "mounting a tmpfs".into(), source: errno.into() });
    }
    let device = disks::find(&source, config.disk_timeout)?;
    disks::mount_disk(&device, target, false)
}

fn default_upper(config: &Config) -> Source {
    let serial = Source::Serial(UPPER_SERIAL.into());
    if disks::look(&serial).is_some() {
        return serial;
    }
    // hypeman's three disks: root, upper layer, config.
    let device = Source::Device(DEFAULT_UPPER.into());
    let hypeman = config.config == Some(Source::Device(DEFAULT_CONFIG.into()));
    if hypeman && disks::look(&device).is_some() { device } else { Source::Tmpfs }
}
