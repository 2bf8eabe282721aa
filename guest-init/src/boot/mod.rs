//! Runs the boot step by step, and decides what ends it.

mod assemble;
pub mod config;
mod error;
mod findings;
pub mod handover;
mod host_link;
mod policy;

use crate::container::cgroup;
use crate::container::exec::Entrance;
use crate::kernel::{bounded, kmsg_writer, modules, mounts, priority, sysinfo};
use crate::lifecycle::shutdown::{self, Ending};
use crate::lifecycle::{self, Recipient, StopSwitch, monitor, panic, reap, stop, watchdog};
use crate::network;
use crate::status::Board;
use crate::vsock::server::Guest;
use assemble::Assembled;
use error::BootError;
use host_link::HostLink;
use image::config::{Config, LINGER};
use image::status::{Exit, Finding, Phase, PhaseOutcome};
use nix::unistd::{gethostname, sethostname};

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
    let link = HostLink::default();
    let ending = match boot(&release, &board, &stop, &link, &mut config) {
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
    // A host that asks why, or listens, gets its answer also from a guest that was faster.
    link.wait();
    shutdown::end(ending, &stop, &board, &config)
}

fn boot(
    release: &str,
    board: &Board,
    stop: &StopSwitch,
    link: &HostLink,
    config: &mut Config,
) -> Result<Exit, Fatal> {
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
    if let Err(error) = stop::follow_signals(stop) {
        log::warn!("cannot follow signals: {error}");
    }
    let control = manifest.as_ref().map_or(config.control, |manifest| manifest.control(config.control));
    let entrance = Entrance::default();
    link.begin(
        config,
        Guest { control, stop: stop.clone(), entrance: entrance.clone(), board: board.clone() },
    );
    told?;
    let manifest = manifest?;
    fits?;
    #[cfg(feature = "fault-injection")]
    {
        // What a test sees must not depend on whether the host's question or the fault comes first.
        link.wait();
        crate::lifecycle::fault::inject(board);
    }

    board.phase(Phase::Config, || {
        #[cfg(feature = "fault-injection")]
        crate::lifecycle::fault::hang();
        config::config_disk(config)?;
        panic::configure(config);
        config::consistent(config)
    })?;
    config::report_unknown(config, board);
    surroundings(config);
    let assembled = assemble::assemble(&manifest, config, link, board)?;
    if config.all_modules {
        modules::all();
    }
    // A program that could load modules waits until it cannot.
    let could_load = assembled.spec.may_load_modules() || assembled.begun.is_none();
    if config.lock_modules && could_load {
        lock_modules(link);
    }
    if stop.order().is_some() {
        return Err(Fatal(None));
    }
    board.begin(Phase::Exec);
    let Assembled { spec, begun, unneeded } = assembled;
    let Some(begun) = begun else {
        if let Some(unneeded) = &unneeded {
            unneeded.discard();
        }
        let keeper = handover::Keeper { listener: link.wait(), notify: config.notify, control, config };
        match handover::hand_over(&spec, &keeper, board)? {}
    };
    cgroup::limit_memory(unneeded.as_ref().map_or(0, |unneeded| unneeded.bytes));
    let started = || {
        link.take_turn();
        if config.lock_modules && !could_load {
            let link = link.clone();
            in_background("lock", move || lock_modules(&link));
        }
        if let Some(unneeded) = unneeded.clone() {
            in_background("discard", move || priority::later(|| unneeded.discard()));
        }
    };
    Ok(lifecycle::run::run(begun?, &spec, config.restart, stop, &entrance, board, &started)?)
}

/// Disables module loading once nothing is to be loaded any more.
fn lock_modules(link: &HostLink) {
    link.wait();
    modules::lock().unwrap_or_else(|error| log::warn!("module loading is still enabled: {error}"));
}

/// Does work in a thread of its own, if one can be started.
fn in_background(name: &str, work: impl Fn() + Clone + Send + 'static) {
    if std::thread::Builder::new().name(name.into()).spawn(work.clone()).is_err() {
        work();
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
