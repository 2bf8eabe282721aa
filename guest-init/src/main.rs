//! PID 1: the boot sequence, and nothing else.

use guest_init::container::{self, Spec};
use guest_init::gpu::visible::Visible;
use guest_init::report::{self, Board, warning};
use guest_init::root::Driver;
use guest_init::{
    cli, driver, finish, gpu, handover, kmsg, life, modules, mounts, net, notify, payload, power, root,
    server, settings, supervise, watch,
};
use image::config::{Config, ExpectedGpus, GpuPolicy, InitMode};
use image::manifest::{Manifest, Purpose};
use image::status::{Code, Exit, Finding, Node, Phase, PhaseOutcome};
use nix::unistd::{gethostname, sethostname};
use std::os::fd::RawFd;

/// Why a boot ended without a container. `None`: the findings on the board say it.
type Fatal = Option<Finding>;

fn main() {
    let args: Vec<_> = std::env::args_os().skip(1).collect();
    match args.first().and_then(|first| first.to_str()) {
        Some(container::STAGE) => std::process::exit(container::run_stage(&args[1..])),
        Some(handover::KEEPER) => std::process::exit(handover::run_keeper(&args[1..])),
        _ if std::process::id() != 1 => std::process::exit(cli::run(args)),
        _ => {}
    }
    supervise::block_signals();
    let board = Board::new(
        nix::sys::utsname::uname()
            .map_or_else(|_| "unknown".into(), |name| name.release().to_string_lossy().into_owned()),
    );
    let mut config = Config::default();
    let outcome = boot(&board, &mut config);
    finish::end(outcome, &board, &config)
}

fn boot(board: &Board, config: &mut Config) -> Result<Exit, Fatal> {
    board.begin(Phase::Start);
    let mounted = mounts::early();
    kmsg::start_logging("info");
    power::on_panic(board);
    watch::start(board);
    for kind in mounted.map_err(|error| Some(internal(&error.to_string())))? {
        log::warn!("this kernel has no {kind}: the container is started without");
    }
    // What is wrong with the command line or the plan is told over vsock too, so both wait until it is there.
    let told = settings::cmdline(config);
    kmsg::start_logging(&config.log_level);
    let manifest = settings::manifest();
    board.end(Phase::Start, PhaseOutcome::Done);

    board.begin(Phase::Modules);
    let fits = manifest.as_ref().map_or(Ok(()), |manifest| modules::fit(manifest, &board.snapshot().kernel));
    if let Ok(manifest) = &manifest {
        let driver = manifest.driver.as_ref().map(|driver| driver.version.clone());
        board.update(|status| status.driver_planned = driver);
        if fits.is_ok() {
            modules::load_what_can(manifest, Purpose::Boot, &config.module_parameters, board);
        }
    }
    board.end(Phase::Modules, PhaseOutcome::Done);
    let listener = listen(config, board);
    notify::start(config, board);
    told?;
    let manifest = manifest?;
    fits?;
    #[cfg(feature = "fault-injection")]
    guest_init::fault::inject(board);

    board.phase(Phase::Config, || {
        settings::config_disk(config)?;
        settings::consistent(config)
    })?;
    settings::report_unknown(config, board);
    surroundings(config);
    let given = gpu_and_root(&manifest, config, board)?;
    if config.lock_modules {
        modules::lock().unwrap_or_else(|error| log::warn!("modules can still be loaded: {error}"));
    }

    board.begin(Phase::Exec);
    let spec = Spec::new(config, given.nodes, given.store);
    match config.init_mode {
        InitMode::Systemd => match handover::hand_over(&spec, listener, config.notify, board)? {},
        InitMode::Exec => life::run(&spec, config.restart, board).map_err(Some),
    }
}

fn internal(what: &str) -> Finding {
    report::error(Code::Internal, what, "this is a defect of guest-init, or of the guest's kernel")
}

/// The status server. A guest without vsock boots all the same.
fn listen(config: &Config, board: &Board) -> Option<RawFd> {
    match server::start(config.vsock_port, board) {
        Ok(listener) => Some(listener),
        Err(error) => {
            log::warn!("status cannot be asked for: vsock port {}: {error}", config.vsock_port);
            None
        }
    }
}

fn surroundings(config: &Config) {
    if let Err(errno) = net::loopback_up() {
        log::warn!("the loopback interface is down: {errno}");
    }
    let name = config.hostname.clone().or_else(|| match gethostname() {
        Ok(name) if name == "(none)" => Some("localhost".into()),
        _ => None,
    });
    if let Some(Err(errno)) = name.map(sethostname) {
        log::warn!("the host name could not be set: {errno}");
    }
}

/// What the container is given.
#[derive(Default)]
struct Given {
    nodes: Vec<Node>,
    /// Programs of Nix or Guix need a link to the driver.
    store: bool,
}

/// GPU and root at the same time; then policy decides.
fn gpu_and_root(manifest: &Manifest, config: &Config, board: &Board) -> Result<Given, Fatal> {
    let policy = config.gpu_policy.unwrap_or(GpuPolicy::Required);
    let visible = Visible::asked(&config.env);
    let asked =
        (config.has_gpu || config.gpus.promises()) && policy != GpuPolicy::Off && visible != Visible::Void;
    if asked && manifest.driver.is_none() {
        no_driver(config, board)?;
    }
    let driver = manifest.driver.as_ref().filter(|_| asked);
    let required = driver.is_some() && policy == GpuPolicy::Required;
    board.begin(Phase::Gpu);
    // A number, or a list, is held against the bus even where the container is to have none of them.
    let is_told = config.gpus != ExpectedGpus::Any;
    let found = if driver.is_some() || is_told { gpu::find(config, board) } else { Vec::new() };
    let expected_ok = board.snapshot().findings.iter().all(|finding| !gpu_code(finding.code));
    let Some(driver) = driver.filter(|_| !found.is_empty()) else {
        board.end(Phase::Gpu, if expected_ok { PhaseOutcome::Skipped } else { PhaseOutcome::Failed });
        if required && !expected_ok {
            return Err(None);
        }
        payload::discard(manifest);
        root::prepare(config, None, board)?;
        return Ok(Given::default());
    };
    let attached = board.phase(Phase::Payload, || payload::attach(manifest, config));
    if let Err(finding) = attached {
        board.end(Phase::Gpu, PhaseOutcome::Failed);
        return without_driver(finding, required, config, board);
    }
    let unmet = gpu::requirements::unmet(config, driver);
    let met = unmet.is_empty();
    for finding in unmet {
        board.finding(finding);
    }
    if required && !met {
        board.end(Phase::Gpu, PhaseOutcome::Failed);
        return Err(None);
    }
    let driver = Driver { request: driver::request(config)?, manifest, required };
    let (gpus, prepared) = std::thread::scope(|scope| {
        let gpus = scope.spawn(|| gpu::bring_up(manifest, config, &found, board));
        let prepared = root::prepare(config, Some(&driver), board);
        (gpus.join().unwrap_or(Ok(false)), prepared)
    });
    let usable = match gpus {
        Ok(usable) => usable && expected_ok,
        Err(finding) => {
            board.finding(finding);
            false
        }
    };
    board.end(Phase::Gpu, if usable { PhaseOutcome::Done } else { PhaseOutcome::Failed });
    let altered = payload::altered(manifest);
    let intact = altered.is_none();
    if let Some(finding) = altered {
        board.finding(finding);
    }
    let store = prepared?;
    if required && !(usable && intact) {
        return Err(None);
    }
    let status = board.snapshot();
    match visible.nodes(&status.gpus, status.nodes) {
        Ok(nodes) => Ok(Given { nodes, store }),
        Err(finding) if required => Err(Some(finding)),
        Err(finding) => {
            board.finding(finding);
            Ok(Given { store, ..Given::default() })
        }
    }
}

/// The driver's files are not to be had: a failure, or a container without a GPU.
fn without_driver(finding: Finding, required: bool, config: &Config, board: &Board) -> Result<Given, Fatal> {
    if required {
        return Err(Some(finding));
    }
    board.finding(finding);
    root::prepare(config, None, board)?;
    Ok(Given::default())
}

/// HAS_GPU=1 with an initrd that carries no driver.
fn no_driver(config: &Config, board: &Board) -> Result<(), Fatal> {
    let hint = "build an initrd with a driver, or boot without HAS_GPU=1";
    let message = "HAS_GPU=1, and the initrd carries no driver";
    if config.gpu_policy == Some(GpuPolicy::Required) {
        return Err(Some(report::error(Code::NoDriver, message, hint)));
    }
    board.finding(warning(Code::NoDriver, message, hint));
    Ok(())
}

fn gpu_code(code: Code) -> bool {
    matches!(code, Code::NoGpu | Code::GpuCountMismatch)
}
