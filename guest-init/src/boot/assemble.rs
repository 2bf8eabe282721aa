//! Assembles the container: its root, the driver, the GPUs.

use super::Fatal;
use super::error::BootError;
use super::host_link::HostLink;
use super::policy::{self, Wants};
use crate::container::rootfs::{self, Driver, RootfsError};
use crate::container::{ContainerError, Spec};
use crate::driver_files::payload::{self, Unneeded};
use crate::gpu::pci::PciGpu;
use crate::gpu::{self, GpuFacts};
use crate::kernel::beside::beside;
use crate::kernel::{disks, modules, sysinfo};
use crate::lifecycle::run::Begun;
use crate::lifecycle::{self, reserve};
use crate::status::Board;
use image::config::{Config, ExpectedGpus, GpuPolicy, InitMode, VolumeMode};
use image::manifest::Manifest;
use image::status::{Phase, PhaseOutcome};

/// A container that is ready to be started.
pub struct Assembled {
    /// What it is.
    pub spec: Spec,
    /// The container itself; `None` if the image's init takes this process over.
    pub begun: Option<Result<Begun, ContainerError>>,
    /// What is discarded once the program runs.
    pub unneeded: Option<Unneeded>,
}

/// The program waits for the end of what takes memory that it could need: more than one part in this many of what is available.
const MUCH: u64 = 4;

/// Prepares the GPUs and the container in parallel, then applies the GPU policy. `link` has its turn as soon as the rest waits for the
/// GPUs.
pub fn assemble(
    manifest: &Manifest,
    config: &Config,
    link: &HostLink,
    board: &Board,
) -> Result<Assembled, Fatal> {
    let Wants { driver, visible, required, lacks_driver } = Wants::of(config, manifest);
    if lacks_driver {
        // Without gpu=required, the host may start guests with and without a driver alike.
        if config.gpu_policy == Some(GpuPolicy::Required) {
            return Err(BootError::NoDriver.into());
        }
        board.warn(BootError::NoDriver);
    }
    board.begin(Phase::Gpu);
    // A number or a list is checked against the bus even if the container receives none of the GPUs.
    let is_told = config.gpus != ExpectedGpus::Any;
    let (found, as_promised) =
        if driver.is_some() || is_told { find_gpus(config, board) } else { (Vec::new(), true) };
    let Some(driver) = driver.filter(|_| !found.is_empty()) else {
        board.end(Phase::Gpu, if as_promised { PhaseOutcome::Skipped } else { PhaseOutcome::Failed });
        if required && !as_promised {
            return Err(Fatal(None));
        }
        let unneeded = Unneeded::of(manifest);
        if sysinfo::memory().is_some_and(|memory| memory.available > MUCH * unneeded.bytes) {
            return Ok(Assembled { unneeded: Some(unneeded), ..container(config, None, board)? });
        }
        let (container, ()) = beside("discard", || unneeded.discard(), || container(config, None, board));
        return Ok(container?);
    };
    let others = rootfs::disks_of_the_container(config);
    let attached = board.phase(Phase::Payload, || payload::attach(manifest, config, &others));
    if let Err(error) = attached {
        board.end(Phase::Gpu, PhaseOutcome::Failed);
        // The driver files are unavailable: the boot fails, or the container starts without a GPU.
        if required {
            return Err(error.into());
        }
        board.report(error);
        return Ok(container(config, None, board)?);
    }
    let unmet = gpu::requirements::unmet(config, driver);
    let met = unmet.is_empty();
    for error in unmet {
        board.report(error);
    }
    if required && !met {
        board.end(Phase::Gpu, PhaseOutcome::Failed);
        return Err(Fatal(None));
    }
    let driver = Driver::new(config, manifest, required)?;
    let capabilities = driver.capabilities();
    let gpus = || {
        reserve::hold();
        let facts = gpu::bring_up(manifest, config, capabilities, &found, board, || link.take_turn());
        reserve::release();
        facts
    };
    let (assembled, gpus) = beside("gpus", gpus, || container(config, Some(&driver), board));
    let facts = gpus.unwrap_or_else(|error| {
        board.report(error);
        GpuFacts::default()
    });
    let usable = facts.usable && as_promised;
    board.end(Phase::Gpu, if usable { PhaseOutcome::Done } else { PhaseOutcome::Failed });
    let altered = payload::altered(manifest);
    let intact = altered.is_none();
    if let Some(error) = altered {
        board.report(error);
    }
    let Assembled { spec, begun, .. } = assembled?;
    if required && !(usable && intact) {
        return Err(Fatal(None));
    }
    let nodes = match visible.nodes(&facts.gpus, facts.nodes) {
        Ok(nodes) => nodes,
        Err(error) if required => return Err(error.into()),
        Err(error) => {
            board.report(error);
            Vec::new()
        }
    };
    Ok(Assembled { spec: spec.with_nodes(nodes), begun, unneeded: None })
}

/// Assembles the root, and begins to set up the container in it.
fn container(config: &Config, driver: Option<&Driver>, board: &Board) -> Result<Assembled, RootfsError> {
    let store = rootfs::prepare(config, driver, board)?;
    let spec = Spec::new(config, store);
    load_for_volumes(config);
    let begun = (config.init_mode == InitMode::Exec).then(|| lifecycle::run::begin(&spec));
    Ok(Assembled { spec, begun, unneeded: None })
}

/// Returns the GPUs on the bus, and whether they are those that the host promised.
fn find_gpus(config: &Config, board: &Board) -> (Vec<PciGpu>, bool) {
    let found = gpu::pci::scan().unwrap_or_else(|error| {
        board.report(BootError::PciBus(error));
        Vec::new()
    });
    gpu::announce(&config.gpus, &found, board);
    let compared = policy::expected(&config.gpus, &found);
    let as_promised = compared.is_ok();
    if let Err(error) = compared {
        board.report(error);
    }
    (found, as_promised)
}

/// Loads the file systems of the volumes, which another process mounts.
fn load_for_volumes(config: &Config) {
    for volume in &config.volumes {
        let overlay = if let VolumeMode::Overlay { upper } = &volume.mode { Some(upper) } else { None };
        for source in [Some(&volume.device), overlay].into_iter().flatten() {
            disks::load_file_system(source);
        }
        if overlay.is_some() {
            modules::request("fs-overlay");
        }
    }
}
