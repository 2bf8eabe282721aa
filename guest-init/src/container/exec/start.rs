//! PID 1's side of a command in the container: starts the stage, and holds the ends of its pipes.

use super::super::{ContainerError, Heard, MAX_EXIT, NAME, Spec, own_program, read_to_end, understand};
use super::{Inside, STAGE};
use crate::container::namespace::ContainerKind;
use image::session::{Exec, Task};
use image::status::Exit;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::socket::{
    AddressFamily, ControlMessageOwned, MsgFlags, SockFlag, SockType, recvmsg, socketpair,
};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{self, IoSliceMut, Read, Write};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::time::Duration;

/// Maximum time from the start of the stage to the start of the command.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Everything the stage needs to know.
#[derive(Serialize, Deserialize)]
pub(super) struct Entry {
    pub spec: Spec,
    pub task: Task,
    pub kind: ContainerKind,
    /// The container's PID 1.
    pub first: i32,
}

/// A command in the container.
pub struct Process {
    /// Its standard input, or its terminal. No stream blocks.
    pub input: Option<File>,
    /// Its standard output, or its terminal.
    pub output: Option<File>,
    /// Its standard error, unless it has a terminal.
    pub errors: Option<File>,
    /// Its terminal, if it has one.
    pub terminal: Option<File>,
    /// Becomes readable when [`Process::exit`] has a result.
    pub exit: File,
    /// Signals for the command's process group, one byte each. When it closes, the command receives SIGHUP and then SIGKILL.
    pub signals: Option<File>,
}

impl Process {
    /// Returns how the command ended, once `exit` is readable.
    pub fn exit(&self) -> Option<Exit> {
        let mut text = Vec::new();
        let _ = (&self.exit).take(MAX_EXIT).read_to_end(&mut text);
        serde_json::from_slice(&text).ok()
    }
}

/// Starts a command in the container, and returns when it runs.
///
/// # Errors
/// Why it does not run.
pub fn start(inside: &Inside, exec: &Exec) -> Result<Process, ContainerError> {
    let spec = with(&inside.spec, exec)?;
    let entry = Entry { spec, task: exec.task.clone(), kind: inside.kind, first: inside.first.as_raw() };
    let failed = |error: io::Error| ContainerError::internal(format!("cannot start a process: {error}"));
    let Spawned { mut stage, report, console, process } =
        spawn(inside, &entry, exec.terminal.is_some()).map_err(failed)?;
    let (text, ended) = read_to_end(report, TIMEOUT);
    if !ended {
        let _ = stage.kill();
        return Err(ContainerError::internal(format!(
            "the command did not start within {} s: its file or its directory does not respond",
            TIMEOUT.as_secs()
        )));
    }
    let Heard { about_to_exec, .. } = understand(&text)?;
    if !about_to_exec {
        return Err(ContainerError::internal("the process that enters the container ended early"));
    }
    let Some(console) = console else { return Ok(process) };
    let terminal = receive(&console).map_err(failed)?;
    let again = || terminal.try_clone().map(Some).map_err(failed);
    let (input, output) = (again()?, again()?);
    Ok(Process { input, output, errors: None, terminal: Some(terminal), ..process })
}

/// Returns the specification of the container's program with what the host asks for.
fn with(spec: &Spec, exec: &Exec) -> Result<Spec, ContainerError> {
    let mut spec = spec.clone();
    for (name, value) in &exec.env {
        if name.is_empty() || name.contains('=') {
            return Err(ContainerError::internal(format!("expected the name of a variable, found {name:?}")));
        }
        spec.env.retain(|(known, _)| known != name);
        spec.env.push((name.clone(), value.clone()));
    }
    let is_copy = !matches!(exec.task, Task::Command(_));
    if is_copy {
        spec.user = String::new();
    }
    if let Some(user) = &exec.user {
        spec.user.clone_from(user);
    }
    if let Some(workdir) = &exec.workdir {
        spec.workdir.clone_from(workdir);
    }
    spec.terminal = exec.terminal;
    if let Task::Command(command) = &exec.task {
        spec.command.clone_from(command);
        if command.is_empty() {
            return Err(ContainerError::NoCommand);
        }
    }
    Ok(spec)
}

struct Spawned {
    stage: std::process::Child,
    report: File,
    /// Where the terminal comes from.
    console: Option<OwnedFd>,
    process: Process,
}

fn spawn(inside: &Inside, entry: &Entry, has_terminal: bool) -> io::Result<Spawned> {
    let (entry_read, entry_write) = io::pipe()?;
    let (report_read, report_write) = io::pipe()?;
    let (exit_read, exit_write) = io::pipe()?;
    let (signals_read, signals_write) = io::pipe()?;
    let (input_read, input_write) = io::pipe()?;
    let (output_read, output_write) = io::pipe()?;
    let (errors_read, errors_write) = io::pipe()?;
    let (console, console_write) =
        socketpair(AddressFamily::Unix, SockType::Datagram, None, SockFlag::SOCK_CLOEXEC)?;
    let (container, root) = (&inside.process, &inside.root);
    let mut given = vec![
        entry_read.as_fd(),
        report_write.as_fd(),
        exit_write.as_fd(),
        signals_read.as_fd(),
        container.as_fd(),
        root.as_fd(),
    ];
    given.extend(has_terminal.then_some(console_write.as_fd()));
    let stage = own_program::start(NAME, STAGE, &given, |command| {
        command.args(own_program::numbers(&given)).stdin(OwnedFd::from(input_read));
        command.stdout(OwnedFd::from(output_write)).stderr(OwnedFd::from(errors_write));
    })?;
    drop((entry_read, report_write, exit_write, signals_read, console_write));
    File::from(OwnedFd::from(entry_write))
        .write_all(&serde_json::to_vec(entry).map_err(io::Error::other)?)?;
    let process = Process {
        input: Some(own(input_write)?),
        output: Some(own(output_read)?),
        errors: Some(own(errors_read)?),
        terminal: None,
        exit: own(exit_read)?,
        signals: Some(own(signals_write)?),
    };
    let report = File::from(OwnedFd::from(report_read));
    Ok(Spawned { stage, report, console: has_terminal.then_some(console), process })
}

/// Makes an end of a pipe non-blocking.
fn own(end: impl Into<OwnedFd>) -> io::Result<File> {
    let end = end.into();
    fcntl(&end, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    Ok(File::from(end))
}

/// Receives the descriptor of the terminal, which the stage has sent already.
fn receive(console: &OwnedFd) -> io::Result<File> {
    let mut byte = [0];
    let mut data = [IoSliceMut::new(&mut byte)];
    let mut space = nix::cmsg_space!([i32; 1]);
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_CMSG_CLOEXEC;
    let message = recvmsg::<()>(console.as_raw_fd(), &mut data, Some(&mut space), flags)?;
    let mut received = Vec::new();
    for message in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(fds) = message {
            // SAFETY: the kernel has just installed these descriptors for this process, and nothing else owns them.
            received.extend(fds.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
        }
    }
    let master = received.pop().ok_or_else(|| io::Error::other("the stage sent no terminal"))?;
    own(master)
}
