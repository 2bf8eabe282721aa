//! `init_mode=systemd`: the image's own init becomes PID 1, and a small process keeps the GPUs open and answers
//! status requests. It stays in the initramfs, which contains the firmware.

use super::error::BootError;
use crate::container::exec::Entrance;
use crate::container::own_program::{self, inherited};
use crate::container::{self, Spec};
use crate::lifecycle::{Recipient, StopSwitch, monitor, panic};
use crate::status::{self, Board};
use crate::vsock::push;
use crate::vsock::server::{self, Guest};
use image::config::{Config, Control};
use image::status::{Container, Finding, Outcome, Phase, PhaseOutcome, PhaseTime, Status};
use serde::{Deserialize, Serialize};
use std::convert::Infallible;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::time::Duration;

/// First argument of the status keeper.
pub const KEEPER: &str = "--status-keeper";
/// At shutdown, systemd does not kill processes whose name begins with `@` (systemd.io/ROOT_STORAGE_DAEMONS).
const NAME: &str = "@gpu-initrd";

/// What the keeper learns when it begins to answer.
#[derive(Serialize, Deserialize)]
struct Takeover {
    status: Status,
    spec: Spec,
}

/// What the status keeper takes over.
pub struct Keeper<'a> {
    /// The listening socket of the status server.
    pub listener: Option<RawFd>,
    /// Port of the host that receives events.
    pub notify: Option<u32>,
    /// Which requests are accepted.
    pub control: Control,
    /// The configuration of the boot.
    pub config: &'a Config,
}

/// Starts the status keeper and becomes the image's init. Returns only on failure.
///
/// The keeper begins to answer at the end of the pipe that transfers the status, which closes when this process becomes
/// the image's init. Until then the status board of this process is authoritative.
///
/// # Errors
/// The finding that says why.
pub fn hand_over(spec: &Spec, keeper: &Keeper, board: &Board) -> Result<Infallible, Finding> {
    panic::only_if_sound();
    let mut status = board.snapshot();
    status.container = Some(status::started(1, init_command(spec), 0));
    let mut pipe = keep(keeper).map_err(BootError::Keeper)?;
    log::info!("the image's init takes over");
    let mut warn = |error| board.warn(error);
    let mut tell = || {
        status.findings = board.snapshot().findings;
        let takeover = Takeover { status: status.clone(), spec: spec.clone() };
        pipe.write_all(&serde_json::to_vec(&takeover).unwrap_or_default())
    };
    let result = container::become_init(spec, &mut warn, &mut tell).map_err(Finding::from);
    // The handover failed. The trailing byte makes the status invalid, so the keeper exits.
    let _ = pipe.write_all(b"!");
    result
}

/// Updates the status after the image's init has been started.
fn taken_over(status: &mut Status, container: Option<Container>) {
    let now = crate::kernel::sysinfo::uptime_ms();
    status.container = container;
    (status.outcome, status.phase) = (Outcome::Ready, Phase::Running);
    for time in status.phases.iter_mut().filter(|time| time.end_ms.is_none()) {
        (time.end_ms, time.outcome) = (Some(now), PhaseOutcome::Done);
    }
    let (phase, outcome) = (Phase::Running, PhaseOutcome::Running);
    status.phases.push(PhaseTime { phase, start_ms: now, end_ms: None, outcome, progress: None });
}

fn init_command(spec: &Spec) -> Vec<String> {
    let command = spec.command();
    if command.is_empty() { vec![container::DEFAULT_INIT.into()] } else { command.to_vec() }
}

/// Starts the keeper. The pipe to it closes when this process executes another program.
fn keep(keeper: &Keeper) -> io::Result<File> {
    let (read, write) = std::io::pipe()?;
    // SAFETY: the server's threads own the listening socket for the life of this process, so it is open here.
    let listener = keeper.listener.map(|number| unsafe { BorrowedFd::borrow_raw(number) });
    // The keeper holds the GPUs from now on; these descriptors close when this process becomes the image's init.
    let held = crate::gpu::adapter::held();
    let number = listener.map_or("none".into(), |listener| listener.as_raw_fd().to_string());
    let given: Vec<_> =
        [read.as_fd()].into_iter().chain(listener).chain(held.iter().map(AsFd::as_fd)).collect();
    own_program::start(NAME, KEEPER, &given, |command| {
        command.args([read.as_raw_fd().to_string(), number]);
        command.arg(image::text::name(keeper.control));
        command.arg(keeper.config.stop_grace.as_millis().to_string());
        command.args(keeper.notify.map(|port| port.to_string()));
    })?;
    // The GPUs stay open here until this process becomes the image's init.
    held.into_iter().for_each(std::mem::forget);
    drop(read);
    Ok(File::from(OwnedFd::from(write)))
}

/// Runs the keeper. Returns only if its arguments or its input are invalid.
pub fn run_keeper(args: &[OsString]) -> i32 {
    let Some(status) = inherited(args, 0) else { return 2 };
    let mut bytes = Vec::new();
    if File::from(status).read_to_end(&mut bytes).is_err() {
        return 2;
    }
    let Ok(Takeover { mut status, spec }) = serde_json::from_slice(&bytes) else { return 2 };
    crate::kernel::kmsg_writer::start_logging("info");
    crate::lifecycle::reap::unblock_signals();
    let container = status.container.take();
    let board = Board::resumed(status);
    panic::stay_on_panic(&board);
    monitor::start(&board);
    let stop = StopSwitch::new(&board, Recipient::Init);
    let argument = |at: usize| args.get(at).and_then(|argument| argument.to_str());
    let control = argument(2).and_then(Control::named).unwrap_or(Control::None);
    if let Some(grace) = argument(3).and_then(|grace| grace.parse().ok()) {
        stop.configure(Duration::from_millis(grace), Duration::ZERO);
    }
    if let Some(port) = argument(4).and_then(|port| port.parse().ok()) {
        push::resume(port, &board);
    }
    board.update(|status| taken_over(status, container));
    let entrance = Entrance::default();
    entrance.open_init(&spec);
    #[cfg(feature = "fault-injection")]
    crate::lifecycle::fault::inject_into_keeper(&board);
    if let Some(listener) = inherited(args, 1)
        && let Err(error) = server::resume(listener, Guest { control, stop, entrance, board })
    {
        log::error!("requests are not answered: cannot start a thread: {error}");
    }
    // Other threads answer. The GPUs must stay open in any case.
    loop {
        nix::unistd::pause();
    }
}
