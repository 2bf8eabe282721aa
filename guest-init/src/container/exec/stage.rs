//! The process that enters the container, and its child, which becomes the command.

use super::super::own_program::inherited;
use super::super::stage::{
    Report, become_standard, divide, failed, open_null, read_json, reset_signals, run_program,
    set_controlling_terminal,
};
use super::super::{ContainerError, Said, cgroup, confine, user};
use super::start::Entry;
use super::{receive, send};
use crate::confined_fs::RootDir;
use crate::container::namespace::ContainerKind;
use image::session::Task;
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use nix::sys::statfs::{DEVPTS_SUPER_MAGIC, fstatfs};
use nix::unistd::{ForkResult, Pid, chroot, fchdir, setsid};
use std::convert::Infallible;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, IoSlice, Read, Write};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

/// Time between SIGHUP and SIGKILL, once nobody waits for the command any longer.
const HANGUP: Duration = Duration::from_secs(5);

/// The descriptors that the stage inherited, apart from the specification.
struct Given {
    report: Report,
    exit: File,
    signals: File,
    /// The container's PID 1.
    container: OwnedFd,
    /// The root of the container's PID 1.
    root: OwnedFd,
    /// Where a terminal is sent.
    console: Option<OwnedFd>,
}

/// Runs the stage. `args` are the descriptor numbers of the pipes for the specification, the result of the start, the exit status and
/// the signals, of the container's PID 1 and its root, and of the socket for the terminal if the command has one.
/// Returns only on failure.
pub fn run(args: &[OsString]) -> i32 {
    let mut fds = (0..6).map_while(|at| inherited(args, at));
    let (Some(entry), Some(report), Some(exit), Some(signals), Some(container), Some(root)) =
        (fds.next(), fds.next(), fds.next(), fds.next(), fds.next(), fds.next())
    else {
        return 2;
    };
    crate::kernel::kmsg_writer::start_logging("info");
    let (exit, signals, console) = (exit.into(), signals.into(), inherited(args, 6));
    let mut given = Given { report: Report(report.into()), exit, signals, container, root, console };
    let Err(error) = read_json(entry).and_then(|entry| separate(&entry, &mut given));
    given.report.say(&Said::Failed(error));
    127
}

/// Forks a child into the container's PID namespace, and waits for it.
fn separate(entry: &Entry, given: &mut Given) -> Result<Infallible, ContainerError> {
    // Undumpable, also in the child: a process of the container can neither trace it nor open its descriptors.
    confine::hide();
    let failed_to = |what: &str, errno: Errno| failed(&format!("cannot {what}: {errno}"));
    let mut children = SigSet::empty();
    children.add(Signal::SIGCHLD);
    children.thread_block().map_err(|errno| failed_to("block SIGCHLD", errno))?;
    if entry.kind == ContainerKind::Program {
        setns(&given.container, CloneFlags::CLONE_NEWPID)
            .map_err(|errno| failed_to("enter the container's PID namespace", errno))?;
    }
    match divide()? {
        ForkResult::Child => become_command(entry, given),
        ForkResult::Parent { child } => {
            let null = open_null()?;
            become_standard(&null);
            given.report = Report(null);
            given.console = None;
            watch(child, &children, given)
        }
    }
}

/// Waits for the child, passes signals on, and reports how it ended.
fn watch(child: Pid, children: &SigSet, given: &mut Given) -> Result<Infallible, ContainerError> {
    let failed_to = |errno: Errno| failed(&format!("cannot wait for the command: {errno}"));
    let ended = SignalFd::with_flags(children, SfdFlags::SFD_CLOEXEC).map_err(failed_to)?;
    let mut kill_at: Option<Instant> = None;
    let mut is_left = false;
    loop {
        if let Some(exit) = crate::lifecycle::reap::reap(Some(child)) {
            let _ = given.exit.write_all(&serde_json::to_vec(&exit).unwrap_or_default());
            std::process::exit(0)
        }
        let mut fds = vec![PollFd::new(ended.as_fd(), PollFlags::POLLIN)];
        if !is_left {
            fds.push(PollFd::new(given.signals.as_fd(), PollFlags::POLLIN));
        }
        let left = kill_at.map(|moment| moment.saturating_duration_since(Instant::now()));
        let timeout = left.map_or(PollTimeout::NONE, |left| left.try_into().unwrap_or(PollTimeout::MAX));
        match poll(&mut fds, timeout) {
            Err(Errno::EINTR) => continue,
            result => drop(result.map_err(failed_to)?),
        }
        let (has_ended, has_signal) = (is_ready(&fds[0]), fds.get(1).is_some_and(is_ready));
        if has_ended {
            let _ = ended.read_signal();
        }
        if has_signal && !pass_on(&given.signals, child) {
            is_left = true;
            signal_group(child, libc::SIGHUP);
            kill_at = Some(Instant::now() + HANGUP);
        }
        if left.is_some_and(|left| left.is_zero()) {
            signal_group(child, libc::SIGKILL);
            kill_at = None;
        }
    }
}

fn is_ready(fd: &PollFd) -> bool {
    fd.revents().is_some_and(|events| !events.is_empty())
}

/// Passes signals on. Returns whether more can come.
fn pass_on(mut signals: &File, child: Pid) -> bool {
    let mut numbers = [0; 64];
    match signals.read(&mut numbers) {
        Ok(0) => false,
        Ok(count) => {
            numbers[..count].iter().for_each(|number| signal_group(child, i32::from(*number)));
            true
        }
        Err(error) => error.kind() == io::ErrorKind::Interrupted,
    }
}

/// Sends a signal to the command's process group, which it leads, and to the command itself in case it has joined another.
fn signal_group(child: Pid, number: i32) {
    for process in [-child.as_raw(), child.as_raw()] {
        // SAFETY: kill(2) takes two integers.
        if unsafe { libc::kill(process, number) } == 0 {
            return;
        }
    }
}

/// Enters the container, and becomes the command or copies.
fn become_command(entry: &Entry, given: &mut Given) -> Result<Infallible, ContainerError> {
    let Entry { spec, task, kind, first } = entry;
    if let Err(errno) = setsid() {
        return Err(failed(&format!("cannot start a session: {errno}")));
    }
    enter(*kind, Pid::from_raw(*first), given)?;
    reset_signals();
    let root = RootDir::open(Path::new("/")).map_err(|error| failed(&error.to_string()))?;
    let report = &mut given.report;
    let copied = match task {
        Task::Command(_) => {
            if let Some(console) = &given.console {
                own_terminal(console, &root, spec.terminal.unwrap_or_default())
                    .map_err(|error| failed(&format!("cannot open a terminal in the container: {error}")))?;
            }
            return run_program(spec, &root, report);
        }
        Task::Read(path) => {
            begin_copy(report)?;
            send::send(&root, Path::new(path), &mut io::stdout().lock())
        }
        Task::Write { path, name } => {
            let owner = user::lookup(&root, &spec.user).map_err(ContainerError::User)?;
            begin_copy(report)?;
            receive::receive(&root, path, name, &owner, &mut io::stdin().lock())
        }
    };
    match copied {
        Ok(()) => std::process::exit(0),
        Err(error) => {
            // Nobody may read it any longer.
            let _ = writeln!(io::stderr(), "{error}");
            std::process::exit(1)
        }
    }
}

/// From now on errors go to standard error.
fn begin_copy(report: &mut Report) -> Result<(), ContainerError> {
    confine::keep_for_copies().map_err(|error| failed(&error))?;
    report.say(&Said::AboutToExec);
    // Otherwise the report stays open, which delays the start to its deadline.
    *report = Report(open_null()?);
    Ok(())
}

/// Joins the container's control group, namespaces and root.
fn enter(kind: ContainerKind, first: Pid, given: &Given) -> Result<(), ContainerError> {
    let failed_to =
        |what: &str, error: io::Error| failed(&format!("cannot enter the container's {what}: {error}"));
    let mut namespaces = CloneFlags::CLONE_NEWNS;
    if kind == ContainerKind::Program {
        cgroup::join_beside(first).map_err(|error| failed_to("control group", error))?;
        namespaces |= CloneFlags::CLONE_NEWCGROUP;
    }
    setns(&given.container, namespaces).map_err(|errno| failed_to("namespaces", errno.into()))?;
    fchdir(&given.root).and_then(|()| chroot(".")).map_err(|errno| failed_to("root", errno.into()))
}

/// Opens a terminal of the container's own instance of devpts, makes it this session's, and sends the other side to PID 1. A file
/// that the container has put in its place is refused.
fn own_terminal(console: &OwnedFd, root: &RootDir, size: (u16, u16)) -> io::Result<()> {
    let master = root
        .open_device(Path::new("/dev/pts/ptmx"), OFlag::O_RDWR | OFlag::O_NOCTTY)
        .map_err(|error| io::Error::other(image::text::chain(&error)))?;
    let kind = fstatfs(&master)?.filesystem_type();
    if kind != DEVPTS_SUPER_MAGIC {
        return Err(io::Error::other(format!(
            "/dev/pts/ptmx: expected the file system of pseudo-terminals, found type {:#x}",
            kind.0
        )));
    }
    let unlocked: libc::c_int = 0;
    // SAFETY: the descriptor is a pseudo-terminal's, and the kernel reads one integer, which lives.
    nix::Error::result(unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCSPTLCK, &raw const unlocked) })?;
    let flags = OFlag::O_RDWR | OFlag::O_NOCTTY;
    // SAFETY: the descriptor is a pseudo-terminal's, and the argument is the flags of the new descriptor.
    let peer = unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCGPTPEER, flags.bits()) };
    let peer = nix::Error::result(peer)?;
    // SAFETY: the call has just returned this descriptor, which nothing else owns.
    let terminal = unsafe { OwnedFd::from_raw_fd(peer) };
    super::super::terminal::set_size(&terminal, size)?;
    // SAFETY: the descriptor is open, and the argument is the integer that TIOCSCTTY takes.
    unsafe { set_controlling_terminal(terminal.as_raw_fd(), 0) }?;
    become_standard(&terminal);
    let fds = [master.as_raw_fd()];
    let message = [ControlMessage::ScmRights(&fds)];
    sendmsg::<()>(console.as_raw_fd(), &[IoSlice::new(b"t")], &message, MsgFlags::empty(), None)?;
    Ok(())
}
