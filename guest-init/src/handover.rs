//! `init_mode=systemd`: the image's own init becomes PID 1, and a small process keeps the GPUs open and the status
//! answered. It stays in the initramfs, where firmware is.

use crate::container::{self, Spec, inherit};
use crate::report::{self, Board};
use crate::server;
use image::status::{Code, Container, Finding, Outcome, Phase, PhaseOutcome, Status};
use std::convert::Infallible;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

/// First argument of the process that keeps answering.
pub const KEEPER: &str = "--status-keeper";
/// systemd leaves processes alone at shutdown whose name begins so (systemd.io/ROOT_STORAGE_DAEMONS).
const NAME: &str = "@gpu-initrd";

/// Leaves a keeper behind and becomes the image's init. Returns only when it cannot.
///
/// # Errors
/// The finding that says why.
pub fn hand_over(spec: &Spec, listener: Option<RawFd>, board: &Board) -> Result<Infallible, Finding> {
    board.update(|status| {
        status.container = Some(Container { pid: 1, command: init_command(spec), exit: None });
        status.outcome = Outcome::Ready;
    });
    board.end(Phase::Exec, PhaseOutcome::Done);
    board.begin(Phase::Running);
    if let Some(listener) = listener {
        keep(listener, &board.snapshot()).map_err(|error| {
            let message = format!("the process that keeps answering status could not be started: {error}");
            report::error(
                Code::Internal,
                message,
                "this is a defect of guest-init, or the guest is out of memory",
            )
        })?;
    }
    container::become_init(spec)
}

fn init_command(spec: &Spec) -> Vec<String> {
    if spec.command().is_empty() { vec!["/sbin/init".into()] } else { spec.command().to_vec() }
}

fn keep(listener: RawFd, status: &Status) -> io::Result<()> {
    let (read, write) = std::io::pipe()?;
    inherit(&read)?;
    // SAFETY: the server thread owns the listening socket for the life of this process, so it is open here.
    inherit(&unsafe { BorrowedFd::borrow_raw(listener) })?;
    // The keeper holds the GPUs from now on; these copies go when this process becomes the image's init.
    let held = crate::gpu::adapter::held();
    held.iter().try_for_each(inherit)?;
    let child = Command::new("/proc/self/exe")
        .arg0(NAME)
        .arg(KEEPER)
        .arg(read.as_raw_fd().to_string())
        .arg(listener.to_string())
        .env_clear()
        .spawn();
    // Nothing of ours may pass into the image's init.
    for fd in &held {
        nix::fcntl::fcntl(fd, nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::FD_CLOEXEC))?;
    }
    // SAFETY: as above.
    let listener = unsafe { BorrowedFd::borrow_raw(listener) };
    nix::fcntl::fcntl(listener, nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::FD_CLOEXEC))?;
    child?;
    drop(read);
    File::from(OwnedFd::from(write)).write_all(&serde_json::to_vec(status).map_err(io::Error::other)?)
}

/// The keeper's life. Returns only when it was started wrongly.
pub fn run_keeper(args: &[OsString]) -> i32 {
    let descriptor = |at: usize| -> Option<OwnedFd> {
        let number = args.get(at)?.to_str()?.parse().ok().filter(|number| *number > 2)?;
        // SAFETY: PID 1 opened this descriptor for us, passed its number, and nothing else here uses it.
        Some(unsafe { OwnedFd::from_raw_fd(number) })
    };
    let (Some(status), Some(listener)) = (descriptor(0), descriptor(1)) else { return 2 };
    let mut bytes = Vec::new();
    if File::from(status).read_to_end(&mut bytes).is_err() {
        return 2;
    }
    let Ok(status) = serde_json::from_slice(&bytes) else { return 2 };
    crate::supervise::unblock_signals();
    server::resume(listener, &Board::resumed(status));
    0
}
