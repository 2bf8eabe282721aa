//! Specifies and starts the container.
//!
//! PID 1 has threads, so it does not continue in a forked child. It executes this program again, with a specification in a
//! pipe. That process has one thread. It enters the container's control group and forks a child into a new PID namespace,
//! which sets up the namespaces, starts the program and stays as its reaper (`stage`). Three pipes lead there: the
//! specification, the result of the start, and the exit status of the program.

pub mod cgroup;
mod confine;
mod error;
pub mod exec;
mod namespace;
pub mod own_program;
pub mod rootfs;
mod run_dir;
mod stage;
mod step;
pub mod terminal;
mod user;
mod volume;

pub use error::ContainerError;
pub use stage::{Reaper, become_init, run as run_stage};
pub use terminal::Terminal;

use image::config::{Capabilities, Config, Volume};
use image::status::{Exit, Node};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::Child;
use std::time::{Duration, Instant};

/// First argument of the stage process.
pub const STAGE: &str = "--container-stage";
/// Name of the container's PID 1 in `ps`.
const NAME: &str = "gpu-initrd";
/// The image's init, used if no command is set.
pub const DEFAULT_INIT: &str = "/sbin/init";
/// `CAP_SYS_MODULE` of linux/capability.h.
const CAP_SYS_MODULE: u8 = 16;
/// Maximum time from the last order to the start of the program.
const STAGE_TIMEOUT: Duration = Duration::from_mins(1);
/// Maximum size of the report in bytes.
const MAX_REPORT: u64 = 64 << 10;
/// Maximum size of an [`Exit`] in JSON, in bytes.
const MAX_EXIT: u64 = 256;

/// A message of the stage on its pipe: one line of JSON.
#[derive(Debug, Serialize, Deserialize)]
enum Said {
    /// The container's PID 1 has been started, with this process id in the guest.
    First(i32),
    /// The sender is about to execute the program. The pipe closes on exec, which signals success to PID 1.
    AboutToExec,
    /// The container starts without something.
    Warned(ContainerError),
    /// The start failed.
    Failed(ContainerError),
}

/// Everything the container's first process needs to know.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Spec {
    command: Vec<String>,
    env: Vec<(String, String)>,
    workdir: String,
    user: String,
    capabilities: Capabilities,
    no_new_privs: bool,
    nodes: Vec<Node>,
    volumes: Vec<Volume>,
    /// Rows and columns of its terminal.
    terminal: Option<(u16, u16)>,
    /// Maximum time to wait for a volume's disk.
    disk_timeout: Duration,
    /// Whether an unusable volume does not end the boot.
    lenient: bool,
    /// Whether the driver is linked to where programs of Nix and Guix search it.
    store: bool,
}

impl Spec {
    /// Creates the specification from the configuration, and whether Nix or Guix programs need the link; without device nodes.
    pub fn new(config: &Config, store: bool) -> Self {
        let mut env: Vec<(String, String)> = config.env.clone().into_iter().collect();
        for (name, value) in [("PATH", crate::driver_files::DEFAULT_PATH), ("TERM", "linux")] {
            if !config.env.contains_key(name) {
                env.push((name.into(), value.into()));
            }
        }
        Self {
            command: config.command(),
            env,
            workdir: config.workdir.clone(),
            user: config.user.clone(),
            capabilities: config.capabilities,
            no_new_privs: config.no_new_privs,
            nodes: Vec::new(),
            volumes: config.volumes.clone(),
            terminal: config.terminal,
            disk_timeout: config.disk_timeout,
            lenient: config.of_hypeman,
            store,
        }
    }

    /// Adds the device nodes of the driver.
    #[must_use]
    pub fn with_nodes(self, nodes: Vec<Node>) -> Self {
        Self { nodes, ..self }
    }

    /// The device nodes of the driver.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// Returns whether the container may load kernel modules.
    pub fn may_load_modules(&self) -> bool {
        self.capabilities.has(CAP_SYS_MODULE)
    }

    /// Returns whether the container cannot mount, and so cannot undo its restrictions.
    fn confined(&self) -> bool {
        self.capabilities.confine()
    }

    /// Rows and columns of its terminal, where they are known.
    pub fn terminal(&self) -> Option<(u16, u16)> {
        self.terminal
    }

    /// The command, for the status.
    pub fn command(&self) -> &[String] {
        &self.command
    }
}

/// A running container.
pub struct Running {
    /// The PID 1 of its namespace, which exits after the program; the kernel then kills the other processes.
    pub first: Pid,
    /// What it was started without.
    pub warnings: Vec<ContainerError>,
    /// The pipe on which that process reports how the program ended.
    exit: File,
}

impl Running {
    /// Returns how the program ended; `None` if the pipe was closed without a report.
    ///
    /// # Errors
    /// `WouldBlock` while the report may still come.
    pub fn exit(&self) -> io::Result<Option<Exit>> {
        let mut text = Vec::new();
        match (&self.exit).take(MAX_EXIT).read_to_end(&mut text) {
            // Another process holds the other end open and writes no more.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && !text.is_empty() => {}
            result => drop(result?),
        }
        Ok(serde_json::from_slice(&text).ok())
    }
}

impl AsFd for Running {
    /// Becomes readable when [`Running::exit`] has a result.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.exit.as_fd()
    }
}

/// A container under construction: everything but its device nodes and its program.
pub struct Begun(Pipes);

/// Begins to set up a container on this terminal, or on the console. The rest of the boot need not wait for it.
///
/// # Errors
/// [`ContainerError`].
pub fn begin(spec: &Spec, terminal: Option<OwnedFd>) -> Result<Begun, ContainerError> {
    if spec.command.is_empty() {
        return Err(ContainerError::NoCommand);
    }
    spawn(spec, terminal).map(Begun).map_err(|error| not_started(&error))
}

fn not_started(error: &io::Error) -> ContainerError {
    ContainerError::internal(format!("cannot start the container: {error}"))
}

impl Begun {
    /// Gives it the device nodes, and returns when its program runs.
    ///
    /// # Errors
    /// [`ContainerError`].
    pub fn start(self, nodes: &[Node]) -> Result<Running, ContainerError> {
        let Pipes { mut stage, orders, report, exit } = self.0;
        // A stage that has ended says why in its report.
        match order(&orders, nodes) {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => return Err(not_started(&error)),
            _ => drop(orders),
        }
        // The pipe closes when the program runs (on exec), or after the stage has reported a failure.
        let (text, ended) = read_to_end(report, STAGE_TIMEOUT);
        if !ended {
            let _ = stage.kill();
            // With the PID 1 of the namespace, all its processes end.
            if let Ok(Heard { first: Some(first), .. }) = understand(&text) {
                let _ = nix::sys::signal::kill(first, nix::sys::signal::Signal::SIGKILL);
            }
            cgroup::kill_all();
            let waited = STAGE_TIMEOUT.as_secs();
            return Err(ContainerError::internal(format!(
                "the container's program did not start within {waited} s: a mount or the program's file does not respond"
            )));
        }
        let said = understand(&text)?;
        let running = Running { first: said.first.unwrap_or(process(&stage)), warnings: said.warnings, exit };
        if said.first.is_some() && said.about_to_exec {
            return Ok(running);
        }
        let ended = nix::sys::wait::waitpid(running.first, None);
        let ended =
            running.exit().ok().flatten().map_or_else(|| format!("{ended:?}"), |exit| exit.to_string());
        Err(ContainerError::internal(format!(
            "the container's first process ended before the program started: {ended}"
        )))
    }
}

/// The messages received before the pipe closed. The lines of two processes come in any order.
#[derive(Default)]
struct Heard {
    first: Option<Pid>,
    about_to_exec: bool,
    warnings: Vec<ContainerError>,
}

fn understand(text: &[u8]) -> Result<Heard, ContainerError> {
    let mut heard = Heard::default();
    for line in text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        match serde_json::from_slice(line) {
            Ok(Said::First(pid)) => heard.first = Some(Pid::from_raw(pid)),
            Ok(Said::AboutToExec) => heard.about_to_exec = true,
            Ok(Said::Warned(warning)) => heard.warnings.push(warning),
            Ok(Said::Failed(error)) => return Err(error),
            Err(error) => {
                let what = format!("cannot parse the report of the container's first process: {error}");
                let output = vec![String::from_utf8_lossy(line).into_owned()];
                return Err(ContainerError::Internal { what, output });
            }
        }
    }
    Ok(heard)
}

fn process(child: &Child) -> Pid {
    Pid::from_raw(child.id().cast_signed())
}

/// Reads a pipe to its end. Returns the bytes, and whether the end came in time.
fn read_to_end(pipe: File, timeout: Duration) -> (Vec<u8>, bool) {
    let deadline = Instant::now() + timeout;
    let mut pipe = pipe.take(MAX_REPORT);
    let mut text = Vec::new();
    loop {
        let left = deadline.saturating_duration_since(Instant::now()).as_millis();
        let mut fds = [PollFd::new(pipe.get_ref().as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)) {
            Ok(0) => return (text, false),
            Err(nix::Error::EINTR) => continue,
            _ => {}
        }
        let mut part = [0; 4096];
        match pipe.read(&mut part) {
            Ok(0) => return (text, true),
            Ok(length) => text.extend_from_slice(&part[..length]),
            Err(error) => {
                log::warn!("cannot read the report of the container's first process: {error}");
                return (text, true);
            }
        }
    }
}

/// The process that was started, and PID 1's ends of its pipes.
struct Pipes {
    stage: Child,
    /// For the specification, and then the device nodes.
    orders: File,
    report: File,
    exit: File,
}

fn spawn(spec: &Spec, terminal: Option<OwnedFd>) -> io::Result<Pipes> {
    let (orders_read, orders) = std::io::pipe()?;
    let (report_read, report_write) = std::io::pipe()?;
    let (exit_read, exit_write) = std::io::pipe()?;
    fcntl(&exit_read, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    let mut given = vec![orders_read.as_fd(), report_write.as_fd(), exit_write.as_fd()];
    given.extend(terminal.as_ref().map(AsFd::as_fd));
    let stage = own_program::start(NAME, STAGE, &given, |command| {
        command.args(own_program::numbers(&given));
    })?;
    drop((orders_read, report_write, exit_write, terminal));
    let orders = File::from(OwnedFd::from(orders));
    order(&orders, spec)?;
    Ok(Pipes {
        stage,
        orders,
        report: File::from(OwnedFd::from(report_read)),
        exit: File::from(OwnedFd::from(exit_read)),
    })
}

/// Tells the stage what to do: a line of JSON.
fn order<T: Serialize + ?Sized>(mut orders: &File, what: &T) -> io::Result<()> {
    let mut line = serde_json::to_vec(what).map_err(io::Error::other)?;
    line.push(b'\n');
    orders.write_all(&line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_given_unless_the_image_has_one() {
        let mut config = Config::default();
        let path = |config: &Config| {
            let env = Spec::new(config, false).env;
            env.into_iter().filter(|(name, _)| name == "PATH").map(|(_, value)| value).collect::<Vec<_>>()
        };
        assert_eq!(path(&config), [crate::driver_files::DEFAULT_PATH]);
        config.env.insert("PATH".into(), "/x".into());
        assert_eq!(path(&config), ["/x"]);
    }

    #[test]
    fn a_report_that_does_not_end_is_not_waited_for_beyond_its_deadline() {
        let pipe = || std::io::pipe().map(|(read, write)| (File::from(OwnedFd::from(read)), write)).unwrap();
        let (read, mut write) = pipe();
        write.write_all(b"begun").unwrap();
        assert_eq!(read_to_end(read, Duration::from_millis(20)), (b"begun".to_vec(), false));
        let (read, mut write) = pipe();
        write.write_all(b"said").unwrap();
        drop(write);
        assert_eq!(read_to_end(read, Duration::from_secs(20)), (b"said".to_vec(), true));
    }

    #[test]
    fn what_is_said_is_understood_in_any_order() {
        let line = |said: &Said| [serde_json::to_vec(said).unwrap(), b"\n".to_vec()].concat();
        let (first, exec) = (line(&Said::First(7)), line(&Said::AboutToExec));
        for text in [[first.clone(), exec.clone()].concat(), [exec.clone(), first.clone()].concat()] {
            let heard = understand(&text).unwrap();
            assert_eq!((heard.first, heard.about_to_exec), (Some(Pid::from_raw(7)), true));
        }
        let failed = line(&Said::Failed(ContainerError::internal("no")));
        assert_eq!(
            understand(&[exec, failed, first].concat()).err().unwrap(),
            ContainerError::internal("no")
        );
        let error = understand(b"panicked at\n").err().unwrap();
        assert!(matches!(error, ContainerError::Internal { ref output, .. } if output == &["panicked at"]));
        assert!(!understand(b"").unwrap().about_to_exec);
    }

    #[test]
    fn no_command_is_said_before_anything_is_started() {
        let error = begin(&Spec::new(&Config::default(), false), None).err().unwrap();
        assert_eq!(error, ContainerError::NoCommand);
    }
}
