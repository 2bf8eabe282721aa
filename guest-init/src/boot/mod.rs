//! Runs the boot step by step, and decides what ends it.

pub mod config;
mod error;
mod findings;
pub mod handover;
mod policy;

use crate::container::Spec;
use crate::container::exec::Entrance;
use crate::container::rootfs::{self, Driver};
use crate::driver_files::payload;
use crate::gpu::pci::PciGpu;
use crate::gpu::{self, GpuFacts};
use crate::kernel::{bounded, disks, kmsg_writer, modules, mounts, sysinfo};
use crate::lifecycle::shutdown::{self, Ending};
use crate::lifecycle::{self, Recipient, StopSwitch, monitor, panic, power_button, reap, stop, watchdog};
use crate::network;
use crate::status::Board;
use crate::vsock::push;
use crate::vsock::server::{self, Guest};
use error::BootError;
use image::config::{Config, ExpectedGpus, GpuPolicy, InitMode, LINGER, VolumeMode};
use image::manifest::Manifest;
use image::status::{Exit, Finding, Node, Phase, PhaseOutcome};
use nix::unistd::{gethostname, sethostname};
use policy::Wants;
use std::os::fd::RawFd;

/// Why a boot ended without a container. `None`: the findings on the status board say why.
struct Fatal(Option<Finding>);

impl<E: Into<Finding>> From<E> for Fatal {
    fn from(error: E) -> Self {
        Self(Some(error.into()))
    }
}

/// Runs PID 1 from the start of the guest to its end.
pub fn run() -> ! {
    reap::block_signals();
    let release = sysinfo::release();
    let board = Board::new(release.clone());
    let mut config = Config::default();
    let stop = StopSwitch::new(&board, Recipient::Program);
    panic::end_on_panic(&stop, &board);
    let ending = match boot(&release, &board, &stop, &mut config) {
        Ok(exit) => Ending::Exited(exit),
        // Where the boot was when it ended says nothing about the guest.
        Err(Fatal(finding)) if stop.order().is_some() => {
            if let Some(finding) = finding {
                board.report(finding);
            }
            Ending::Stopped
        }
        Err(Fatal(finding)) => Ending::Failed(finding),
    };
    shutdown::end(ending, &stop, &board, &config)
}

fn boot(release: &str, board: &Board, stop: &StopSwitch, config: &mut Config) -> Result<Exit, Fatal> {
    board.begin(Phase::Start);
    let mounted = mounts::early();
    kmsg_writer::start_logging("info");
    monitor::start(board);
    for kind in mounted.map_err(|error| BootError::Mounts(error.to_string()))? {
        log::warn!("this kernel does not support {kind}: starting the container without it");
    }
    // Errors in the command line or the manifest are reported over vsock too, so both are kept until it is available.
    let told = config::cmdline(config);
    kmsg_writer::start_logging(&config.log_level);
    panic::configure(config);
    bounded::set_limit(config.step_timeout);
    if let Err(error) = watchdog::start(config, stop, board) {
        log::warn!("a boot that hangs is not ended: cannot start a thread: {error}");
    }
    let manifest = config::manifest();
    board.end(Phase::Start, PhaseOutcome::Done);

    board.begin(Phase::Modules);
    let fits = manifest.as_ref().map_or(Ok(()), |manifest| modules::fit(manifest, release));
    if let Ok(manifest) = &manifest {
        let driver = manifest.driver.as_ref().map(|driver| driver.version.clone());
        board.update(|status| status.driver_planned = driver);
        if fits.is_ok() {
            let told = board.clone();
            modules::provide(manifest, &config.module_parameters, move |error| told.report(error));
            modules::for_devices();
        }
    }
    board.end(Phase::Modules, PhaseOutcome::Done);
    stop.configure(config.stop_grace, config.linger.unwrap_or(LINGER));
    follow_stop_requests(stop);
    let accepted = manifest.as_ref().map_or(config.control, |manifest| manifest.control(config.control));
    let entrance = Entrance::default();
    let guest =
        Guest { control: accepted, stop: stop.clone(), entrance: entrance.clone(), board: board.clone() };
    let listener = listen(config, guest);
    push::start(config, board);
    told?;
    let manifest = manifest?;
    fits?;
    #[cfg(feature = "fault-injection")]
    crate::lifecycle::fault::inject(board);

    board.phase(Phase::Config, || {
        #[cfg(feature = "fault-injection")]
        crate::lifecycle::fault::hang();
        config::config_disk(config)?;
        panic::configure(config);
        config::consistent(config)
    })?;
    config::report_unknown(config, board);
    surroundings(config);
    let given = gpu_and_root(&manifest, config, board)?;
    if config.all_modules {
        modules::all();
    }
    if config.lock_modules {
        load_for_volumes(config);
        modules::lock().unwrap_or_else(|error| log::warn!("module loading is still enabled: {error}"));
    }

    if stop.order().is_some() {
        return Err(Fatal(None));
    }
    board.begin(Phase::Exec);
    let spec = Spec::new(config, given.nodes, given.store);
    match config.init_mode {
        InitMode::Systemd => {
            let keeper = handover::Keeper { listener, notify: config.notify, control: accepted, config };
            match handover::hand_over(&spec, &keeper, board)? {}
        }
        InitMode::Exec => Ok(lifecycle::run::run(&spec, config.restart, stop, &entrance, board)?),
    }
}

/// Loads the file systems of the volumes, which are mounted when modules cannot be loaded any more.
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

/// Starts to follow signals and the power button.
fn follow_stop_requests(switch: &StopSwitch) {
    for (what, followed) in
        [("signals", stop::follow_signals(switch)), ("the power button", power_button::follow(switch))]
    {
        if let Err(error) = followed {
            log::warn!("cannot follow {what}: {error}");
        }
    }
}

/// Starts the status server. A guest without vsock boots all the same.
fn listen(config: &Config, guest: Guest) -> Option<RawFd> {
    match server::start(config.vsock_port, guest) {
        Ok(listener) => Some(listener),
        Err(error) => {
            log::warn!("the status server is not running: vsock port {}: {error}", config.vsock_port);
            None
        }
    }
}

fn surroundings(config: &Config) {
    if let Err(errno) = network::loopback_up() {
        log::warn!("cannot bring up the loopback interface: {errno}");
    }
    let name = config.hostname.clone().or_else(|| match gethostname() {
        Ok(name) if name == "(none)" => Some("localhost".into()),
        _ => None,
    });
    if let Some(Err(errno)) = name.map(sethostname) {
        log::warn!("cannot set the host name: {errno}");
    }
}

/// What the container receives.
#[derive(Default)]
struct Given {
    nodes: Vec<Node>,
    /// Whether programs of Nix or Guix need a link to the driver.
    store: bool,
}

/// Prepares the GPUs and the container root in parallel, then applies the GPU policy.
fn gpu_and_root(manifest: &Manifest, config: &Config, board: &Board) -> Result<Given, Fatal> {
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
        payload::discard(manifest);
        rootfs::prepare(config, None, board)?;
        return Ok(Given::default());
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
        rootfs::prepare(config, None, board)?;
        return Ok(Given::default());
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
    let bring_up = || gpu::bring_up(manifest, config, &found, board);
    let (gpus, prepared) = std::thread::scope(|scope| {
        let gpus = std::thread::Builder::new().name("gpus".into()).spawn_scoped(scope, bring_up);
        let prepared = rootfs::prepare(config, Some(&driver), board);
        let gpus = match gpus {
            Ok(gpus) => gpus.join().unwrap_or_else(|_| Ok(GpuFacts::default())),
            Err(error) => {
                log::warn!("the GPUs are initialised after the root: cannot start a thread: {error}");
                bring_up()
            }
        };
        (gpus, prepared)
    });
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
    let store = prepared?;
    if required && !(usable && intact) {
        return Err(Fatal(None));
    }
    match visible.nodes(&facts.gpus, facts.nodes) {
        Ok(nodes) => Ok(Given { nodes, store }),
        Err(error) if required => Err(error.into()),
        Err(error) => {
            board.report(error);
            Ok(Given { store, ..Given::default() })
        }
    }
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
