//! The container root: the host's disk or virtiofs share as the lowest layer, the driver files above it, a writable layer
//! on top. Without an overlay it is the disk itself, with copies of the driver files.

pub mod overlay;

use crate::driver_files::ContainerRequest;
use crate::kernel::disks;
use crate::kernel::disks::{DiskError, Scratch};
use crate::status;
use crate::status::{Board, with_evidence};
use image::config::{Config, Source};
use image::layout::{
    self, CONFIG_SERIAL, DEFAULT_CONFIG, DEFAULT_ROOT, DEFAULT_UPPER, ROOT_SERIAL, UPPER_SERIAL,
};
use image::manifest::Manifest;
use image::status::{Code, Finding, Phase, PhaseOutcome, Severity};
use image::text::chain;
use nix::mount::{MsFlags, mount};
use nix::sys::statvfs::{FsFlags, statvfs};
use std::path::{Path, PathBuf};

/// The driver for a container.
pub struct Driver<'a> {
    /// The container's request.
    pub request: ContainerRequest,
    /// The manifest of the initrd.
    pub manifest: &'a Manifest,
    /// Whether the boot fails if the driver is unavailable.
    pub required: bool,
}

/// Mounts the root. With a driver, adds its files and writes the loader cache. Returns whether programs of Nix or Guix
/// need a link to the driver below /run.
///
/// # Errors
/// The finding that ends the boot.
pub fn prepare(config: &Config, driver: Option<&Driver>, board: &Board) -> Result<bool, Finding> {
    let in_place = config.upper == Some(Source::None);
    board.phase(Phase::Root, || {
        if in_place { writable(config) } else { lower(config, layout::ROOT_LOWER, true) }
    })?;
    let Some(driver) = driver else {
        board.begin(Phase::Inject);
        board.end(Phase::Inject, PhaseOutcome::Skipped);
        return if in_place { Ok(false) } else { overlay(&upper(config)?, &[]).map(|()| false) };
    };
    let report = board.phase(Phase::Inject, || {
        if in_place {
            return driver.unless_optional(board, overlay::copy(driver.manifest, &driver.request, board));
        }
        let scratch = upper(config)?;
        let layer = overlay::layer(driver.manifest, &driver.request, board);
        let report = driver.unless_optional(board, layer)?;
        overlay(&scratch, &if report.is_some() { overlay::layers(driver.manifest) } else { Vec::new() })?;
        Ok(report)
    })?;
    let Some(mut report) = report else { return Ok(false) };
    let completed = board.phase(Phase::Cache, || overlay::complete(&driver.request, &mut report, board));
    driver.unless_optional(board, completed.map(Some))?;
    Ok(report.store)
}

impl Driver<'_> {
    /// Turns a failure into a warning if the driver is optional.
    fn unless_optional<T>(
        &self,
        board: &Board,
        result: Result<Option<T>, Finding>,
    ) -> Result<Option<T>, Finding> {
        match result {
            Err(finding) if !self.required => {
                board.finding(Finding { severity: Severity::Warning, ..finding });
                Ok(None)
            }
            other => other,
        }
    }
}

/// Mounts the root itself, writable.
fn writable(config: &Config) -> Result<(), Finding> {
    lower(config, layout::ROOT_MERGED, false)?;
    let read_only = statvfs(layout::ROOT_MERGED).is_ok_and(|stat| stat.flags().contains(FsFlags::ST_RDONLY));
    if !read_only {
        return Ok(());
    }
    Err(status::error(
        Code::RootUnusable,
        "gpu_initrd.upper=none requires a writable root, but its file system or disk is read-only",
        "attach a writable ext4 disk, or send writes elsewhere: gpu_initrd.upper=tmpfs",
    ))
}

/// Mounts the container image on `target`.
fn lower(config: &Config, target: &str, read_only: bool) -> Result<(), Finding> {
    let target = Path::new(target);
    let source = match &config.root {
        Some(source) => source.clone(),
        None => first_present(&usual_roots(), config)?,
    };
    match &source {
        Source::Virtiofs(tag) => {
            let mut flags = MsFlags::MS_NODEV;
            flags.set(MsFlags::MS_RDONLY, read_only);
            mount(Some(tag.as_str()), target, Some("virtiofs"), flags, None::<&str>)
                .map_err(|errno| unusable(&format!("virtiofs tag {tag}: {errno}")))
        }
        Source::Tmpfs | Source::None => Err(unusable(&format!("gpu_initrd.root does not support {source}"))),
        disk => {
            let device = disks::find(disk, config.disk_timeout).map_err(|error| unusable(&chain(&error)))?;
            disks::mount_disk(&device, target, read_only).map_err(|error| unusable(&chain(&error)))
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
fn first_present(sources: &[Source], config: &Config) -> Result<Source, Finding> {
    let deadline = std::time::Instant::now() + config.disk_timeout;
    loop {
        if let Some(source) = sources.iter().find(|source| disks::look(source).is_some()) {
            return Ok(source.clone());
        }
        if std::time::Instant::now() >= deadline {
            let names: Vec<_> = sources.iter().map(ToString::to_string).collect();
            let waited = config.disk_timeout.as_secs();
            return Err(unusable(&format!(
                "no disk after {waited} s: none of {} appeared",
                names.join(", ")
            )));
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

fn unusable(what: &str) -> Finding {
    status::error(
        Code::RootUnusable,
        format!("cannot use the container root: {what}"),
        "attach the root as a virtio disk with serial `root`, or name it: gpu_initrd.root=/dev/NAME, serial:NAME or virtiofs:TAG",
    )
}

/// Mounts the overlay: the upper layer on top, then the driver, then the image.
fn overlay(scratch: &Scratch, driver: &[&str]) -> Result<(), Finding> {
    let options = scratch.overlay(&[driver, &[layout::ROOT_LOWER]].concat().join(":"));
    let mut log = crate::kernel::kmsg_writer::KernelLog::here();
    mount(Some("overlay"), layout::ROOT_MERGED, Some("overlay"), MsFlags::MS_NODEV, Some(options.as_str()))
        .map_err(|errno| with_evidence(not_assembled(&format!("overlay ({options}): {errno}")), log.lines()))
}

fn not_assembled(what: &str) -> Finding {
    let hint = "use an ext4 disk or tmpfs as the upper layer, and read the kernel log lines; if the kernel has no overlayfs, set gpu_initrd.upper=none";
    status::error(Code::RootUnusable, format!("cannot assemble the container root: {what}"), hint)
}

/// Prepares the layer for the container's writes.
fn upper(config: &Config) -> Result<Scratch, Finding> {
    mount_scratch(config).map_err(|error| not_assembled(&chain(&error)))?;
    Scratch::of(Path::new(layout::ROOT_SCRATCH)).map_err(|error| not_assembled(&error.to_string()))
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
