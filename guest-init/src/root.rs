//! The container's root: what the host gave (disk or virtiofs) below, the driver's files above it, a writable layer on
//! top.

use crate::disks::{self, DiskError};
use crate::inject::{self, InjectError, InjectReport};
use crate::report::{self, Board, chain, with_evidence};
use crate::rootfs::RootDir;
use image::config::{Config, Source};
use image::layout;
use image::manifest::Manifest;
use image::status::{Cache, Code, Finding, Injected, Phase, PhaseOutcome, Resolved};
use nix::mount::{MsFlags, mount};
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

/// Where hypeman and others put root, upper layer and config when nothing is said.
const DEFAULT_ROOT: &str = "/dev/vda";
const DEFAULT_UPPER: &str = "/dev/vdb";
/// See [`DEFAULT_ROOT`].
pub const DEFAULT_CONFIG: &str = "/dev/vdc";

/// Mounts the root; with a driver, puts it in and writes the loader cache.
///
/// # Errors
/// The finding that ends the boot.
pub fn prepare(
    manifest: &Manifest,
    config: &Config,
    with_driver: bool,
    board: &Board,
) -> Result<(), Finding> {
    board.phase(Phase::Root, || lower(config))?;
    if !with_driver {
        board.begin(Phase::Inject);
        board.end(Phase::Inject, PhaseOutcome::Skipped);
        return overlay(config, false);
    }
    let mut report = board.phase(Phase::Inject, || {
        let report = driver_layer(board)?;
        overlay(config, report.is_some())?;
        Ok::<_, Finding>(report)
    })?;
    let Some(report) = &mut report else { return Ok(()) };
    board.phase(Phase::Cache, || complete(manifest, config, report, board))
}

/// The image as it came.
fn lower(config: &Config) -> Result<(), Finding> {
    let target = Path::new(layout::ROOT_LOWER);
    let source = match &config.root {
        Some(source) => source.clone(),
        None => first_present(&[Source::Serial("root".into()), Source::Device(DEFAULT_ROOT.into())], config)?,
    };
    match &source {
        Source::Virtiofs(tag) => mount(
            Some(tag.as_str()),
            target,
            Some("virtiofs"),
            MsFlags::MS_NODEV | MsFlags::MS_RDONLY,
            None::<&str>,
        )
        .map_err(|errno| unusable(&format!("virtiofs tag {tag}: {errno}"))),
        Source::Tmpfs | Source::None => Err(unusable(&format!("a root cannot be {source}"))),
        disk => {
            let device = disks::find(disk, config.disk_timeout).map_err(|error| unusable(&chain(&error)))?;
            disks::mount_disk(&device, target, true).map_err(|error| unusable(&chain(&error)))
        }
    }
}

/// The first of several that is there, looked for until the deadline.
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
                "waited {waited} s for a disk: none of {} appeared",
                names.join(", ")
            )));
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

fn unusable(what: &str) -> Finding {
    report::error(
        Code::RootUnusable,
        format!("the container root cannot be used: {what}"),
        "attach the root as a virtio disk with serial `root`, or name it: gpu_initrd.root=/dev/NAME, serial:NAME or virtiofs:TAG",
    )
}

/// The driver's files as a layer. `None` when the image cannot use them; the board says why.
fn driver_layer(board: &Board) -> Result<Option<InjectReport>, Finding> {
    let failed = |what: &str| {
        let hint =
            "the evidence names the path; an image with a broken /usr/lib or /etc cannot be given a driver";
        report::error(
            Code::InjectFailed,
            format!("driver files cannot be put into the container: {what}"),
            hint,
        )
    };
    fs::create_dir_all(layout::DRIVER_LAYER).map_err(|error| failed(&error.to_string()))?;
    let open = |path: &str| RootDir::open(Path::new(path)).map_err(|error| failed(&chain(&error)));
    let report =
        inject::layer::layer(&open(layout::ROOT_LOWER)?, &open("/")?, Path::new(layout::DRIVER_LAYER));
    match report {
        Ok(report) => {
            report.warnings.iter().for_each(|warning| log::warn!("inject: {warning}"));
            let injected = report.items.iter().map(|item| Injected {
                path: item.path.clone(),
                link: matches!(item.kind, inject::ItemKind::Link).then(|| item.target.clone()),
            });
            board.update(|status| status.injected = injected.collect());
            Ok(Some(report))
        }
        Err(error @ InjectError::NoGlibc { .. }) => {
            board.finding(report::warning(Code::InjectFailed, chain(&error), "use an image with glibc"));
            Ok(None)
        }
        Err(error) => Err(failed(&chain(&error))),
    }
}

/// One overlay: writes on top, the driver, the image.
fn overlay(config: &Config, with_driver: bool) -> Result<(), Finding> {
    let failed = |what: String| {
        let hint = "the upper layer must be an ext4 disk, or tmpfs; the kernel's lines say more";
        report::error(Code::RootUnusable, format!("the container root cannot be assembled: {what}"), hint)
    };
    upper(config).map_err(|error| failed(chain(&error)))?;
    let scratch = Path::new(layout::ROOT_SCRATCH);
    for dir in ["upper", "work"] {
        let path = scratch.join(dir);
        fs::create_dir_all(&path).map_err(|error| failed(format!("{}: {error}", path.display())))?;
    }
    let driver = if with_driver { format!("{}:", layout::DRIVER_LAYER) } else { String::new() };
    let options = format!(
        "lowerdir={driver}{},upperdir={}/upper,workdir={}/work",
        layout::ROOT_LOWER,
        layout::ROOT_SCRATCH,
        layout::ROOT_SCRATCH
    );
    let mut log = crate::kmsg::KernelLog::here();
    mount(Some("overlay"), layout::ROOT_MERGED, Some("overlay"), MsFlags::MS_NODEV, Some(options.as_str()))
        .map_err(|errno| with_evidence(failed(format!("overlay ({options}): {errno}")), log.lines()))
}

/// Mounts what takes the container's writes.
fn upper(config: &Config) -> Result<(), DiskError> {
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
    let serial = Source::Serial("upper".into());
    if disks::look(&serial).is_some() {
        return serial;
    }
    // hypeman's three disks: root, upper layer, config.
    let device = Source::Device(DEFAULT_UPPER.into());
    let hypeman = config.config == Some(Source::Device(DEFAULT_CONFIG.into()));
    if hypeman && disks::look(&device).is_some() { device } else { Source::Tmpfs }
}

/// The loader cache of the assembled root, and what the loader will find.
fn complete(
    manifest: &Manifest,
    config: &Config,
    report: &mut InjectReport,
    board: &Board,
) -> Result<(), Finding> {
    let failed = |what: String| {
        let hint =
            "the container's programs may not find the driver; the message names the path that is in the way";
        report::error(Code::CacheFailed, format!("the loader cache cannot be written: {what}"), hint)
    };
    let root = RootDir::open(Path::new(layout::ROOT_MERGED)).map_err(|error| failed(chain(&error)))?;
    let library_path = config.env.get("LD_LIBRARY_PATH").map(OsStr::new);
    inject::complete(&root, library_path, report).map_err(|error| failed(chain(&error)))?;
    let size = root.stat(Path::new("/etc/ld.so.cache")).map_or(0, |stat| stat.size);
    let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
    let cache = report.cache.as_ref().map(|cache| Cache {
        entries: count(cache.entries),
        bytes: size,
        links: count(cache.links.len()),
    });
    let resolved: Vec<Resolved> = report
        .resolved
        .iter()
        .map(|item| Resolved { name: item.soname.clone(), path: item.file.clone(), ours: item.injected })
        .collect();
    for item in resolved.iter().filter(|item| !item.ours && is_packed(manifest, &item.name)) {
        let found = item.path.as_deref().unwrap_or("nothing");
        board.finding(report::warning(
            Code::LibraryShadowed,
            format!("the container's loader opens {found} for {}, not the injected driver", item.name),
            "remove the image's own driver files, or LD_LIBRARY_PATH from its environment",
        ));
    }
    board.update(|status| (status.cache, status.resolved) = (cache, resolved));
    Ok(())
}

/// Whether the initrd carries the library of this name, whatever its suffix.
fn is_packed(manifest: &Manifest, soname: &str) -> bool {
    let stem = soname.split(".so").next().unwrap_or(soname);
    let prefix = PathBuf::from(layout::DRIVER_LIB_DIR).join(format!("{stem}.so."));
    let prefix = prefix.to_string_lossy();
    manifest.files.iter().any(|file| file.path.starts_with(&*prefix))
}
