//! The container: what it is started with, and starting it.
//!
//! PID 1 has threads, so it does not fork and go on in the child. It starts this same program again with a
//! specification in a pipe. That process, which has one thread, enters the container's control group and leaves a child in a
//! PID namespace of its own, whose PID 1 makes the container's world, starts the program and stays as its reaper (`stage`).
//! Three pipes go there: the specification, what became of the start, and how the program ended.

pub mod cgroup;
mod confine;
mod namespace;
pub mod rootfs;
mod run_dir;
mod stage;
mod step;
mod terminal;
mod user;
mod volume;

pub use stage::{Reaper, become_init, run as run_stage};
pub use terminal::Terminal;

use crate::status;
use crate::status::with_evidence;
use image::config::{Capabilities, Config, Volume};
use image::status::{Code, Exit, Finding, Node};
use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

/// First argument of the process that becomes the container.
pub const STAGE: &str = "--container-stage";
/// What `ps` in the container calls its PID 1.
const NAME: &str = "gpu-initrd";
/// The image's init, when no command is given.
pub const DEFAULT_INIT: &str = "/sbin/init";
/// Longest time from starting the stage to running the program.
const STAGE_TIMEOUT: Duration = Duration::from_mins(1);
/// What comes back is no longer than this.
const MAX_REPORT: u64 = 64 << 10;
/// An [`Exit`] in JSON is shorter.
const MAX_EXIT: u64 = 256;

/// What the stage says on its pipe, a line of JSON each.
#[derive(Debug, Serialize, Deserialize)]
enum Said {
    /// The container's PID 1 has been started, as this process of the guest.
    First(i32),
    /// The program takes the place of the process that says so: closing the pipe on exec is how PID 1 learns of success.
    AboutToExec,
    /// What the container is started without.
    Warned(Finding),
    /// Why there is no program.
    Failed(Finding),
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
    /// How long a volume's disk is waited for.
    disk_timeout: Duration,
    /// A volume that cannot be used does not end the boot.
    lenient: bool,
    /// The driver is linked to where programs of Nix and Guix look.
    store: bool,
}

impl Spec {
    /// From the configuration, the GPU's nodes, and whether programs of Nix or Guix look for the driver.
    pub fn new(config: &Config, nodes: Vec<Node>, store: bool) -> Self {
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
            nodes,
            volumes: config.volumes.clone(),
            terminal: config.terminal,
            disk_timeout: config.disk_timeout,
            lenient: config.of_hypeman,
            store,
        }
    }

    /// Whether the container is kept from mounting, and so from undoing what its mounts take away.
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

/// A container whose program runs.
pub struct Running {
    /// The PID 1 of its namespace, which ends when the program has, and with it all the rest.
    pub first: Pid,
    /// What it was started without.
    pub warnings: Vec<Finding>,
    /// Where that process says how the program ended.
    exit: File,
}

impl Running {
    /// How the program ended; `None` when nobody has said so.
    ///
    /// # Errors
    /// `WouldBlock` when it may still be said.
    pub fn exit(&self) -> io::Result<Option<Exit>> {
        let mut text = Vec::new();
        match (&self.exit).take(MAX_EXIT).read_to_end(&mut text) {
            // Somebody has the other end and says nothing more.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && !text.is_empty() => {}
            result => drop(result?),
        }
        Ok(serde_json::from_slice(&text).ok())
    }
}

impl AsFd for Running {
    /// Becomes readable when there is an [`Running::exit`].
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.exit.as_fd()
    }
}

/// Starts the container, on this terminal or on the console, and returns once its program runs.
///
/// # Errors
/// The finding that says why it does not run.
pub fn start(spec: &Spec, terminal: Option<OwnedFd>) -> Result<Running, Finding> {
    if spec.command.is_empty() {
        return Err(status::error(
            Code::ConfigInvalid,
            "no command to run: neither entrypoint nor cmd is set",
            "set entrypoint or cmd in config.json, or write the command on the kernel command line after ` -- `",
        ));
    }
    let Pipes { mut stage, report, exit } =
        spawn(spec, terminal).map_err(|error| internal(&format!("cannot start the container: {error}")))?;
    // It ends when the program runs (the pipe closes on exec), or when the stage has said why not.
    let (text, ended) = read_to_end(report, STAGE_TIMEOUT);
    if !ended {
        let _ = stage.kill();
        // As the PID 1 of its namespace it takes the rest along.
        if let Ok(Heard { first: Some(first), .. }) = understand(&text) {
            let _ = nix::sys::signal::kill(first, nix::sys::signal::Signal::SIGKILL);
        }
        cgroup::kill_all();
        let waited = STAGE_TIMEOUT.as_secs();
        return Err(internal(&format!(
            "the container's program did not start within {waited} s: a mount or the program's file does not respond"
        )));
    }
    let said = understand(&text)?;
    let running = Running { first: said.first.unwrap_or(process(&stage)), warnings: said.warnings, exit };
    if said.first.is_some() && said.about_to_exec {
        return Ok(running);
    }
    let ended = nix::sys::wait::waitpid(running.first, None);
    let ended = running.exit().ok().flatten().map_or_else(|| format!("{ended:?}"), |exit| exit.to_string());
    Err(internal(&format!("the container's first process ended before the program started: {ended}")))
}

/// What was said before the pipe closed; the lines of two processes come in any order.
#[derive(Default)]
struct Heard {
    first: Option<Pid>,
    about_to_exec: bool,
    warnings: Vec<Finding>,
}

fn understand(text: &[u8]) -> Result<Heard, Finding> {
    let mut heard = Heard::default();
    for line in text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        match serde_json::from_slice(line) {
            Ok(Said::First(pid)) => heard.first = Some(Pid::from_raw(pid)),
            Ok(Said::AboutToExec) => heard.about_to_exec = true,
            Ok(Said::Warned(finding)) => heard.warnings.push(finding),
            Ok(Said::Failed(finding)) => return Err(finding),
            Err(error) => {
                let finding =
                    internal(&format!("cannot parse the report of the container's first process: {error}"));
                return Err(with_evidence(finding, vec![String::from_utf8_lossy(line).into_owned()]));
            }
        }
    }
    Ok(heard)
}

fn process(child: &Child) -> Pid {
    Pid::from_raw(child.id().cast_signed())
}

/// What a pipe has until its end, and whether that has come in time.
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
    report: File,
    exit: File,
}

fn spawn(spec: &Spec, terminal: Option<OwnedFd>) -> io::Result<Pipes> {
    let (spec_read, spec_write) = std::io::pipe()?;
    let (report_read, report_write) = std::io::pipe()?;
    let (exit_read, exit_write) = std::io::pipe()?;
    fcntl(&exit_read, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    inherit(&spec_read)?;
    inherit(&report_write)?;
    inherit(&exit_write)?;
    terminal.iter().try_for_each(inherit)?;
    let stage = Command::new("/proc/self/exe")
        .arg0(NAME)
        .arg(STAGE)
        .args(
            [spec_read.as_raw_fd(), report_write.as_raw_fd(), exit_write.as_raw_fd()]
                .map(|fd| fd.to_string()),
        )
        .args(terminal.as_ref().map(|fd| fd.as_raw_fd().to_string()))
        .env_clear()
        .spawn()?;
    drop((spec_read, report_write, exit_write, terminal));
    let mut spec_write = File::from(OwnedFd::from(spec_write));
    spec_write.write_all(&serde_json::to_vec(spec).map_err(io::Error::other)?)?;
    Ok(Pipes {
        stage,
        report: File::from(OwnedFd::from(report_read)),
        exit: File::from(OwnedFd::from(exit_read)),
    })
}

/// Lets a descriptor pass through exec.
pub fn inherit(fd: &impl std::os::fd::AsFd) -> io::Result<()> {
    fcntl(fd, FcntlArg::F_SETFD(FdFlag::empty()))?;
    Ok(())
}

/// Takes the descriptor whose number is argument `at`: what [`inherit`] let through, on the other side.
pub fn inherited(args: &[OsString], at: usize) -> Option<OwnedFd> {
    let number = args.get(at)?.to_str()?.parse().ok().filter(|number| *number > 2)?;
    // SAFETY: PID 1 opened this descriptor for us, passed its number, and each number is taken once.
    Some(unsafe { OwnedFd::from_raw_fd(number) })
}

fn internal(message: &str) -> Finding {
    status::error(
        Code::Internal,
        message,
        "check the guest's memory; if it is sufficient, report a defect in guest-init",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_given_unless_the_image_has_one() {
        let mut config = Config::default();
        let path = |config: &Config| {
            let env = Spec::new(config, vec![], false).env;
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
        let failed = line(&Said::Failed(internal("no")));
        assert_eq!(understand(&[exec, failed, first].concat()).err().unwrap(), internal("no"));
        assert_eq!(understand(b"panicked at\n").err().unwrap().evidence, ["panicked at"]);
        assert!(!understand(b"").unwrap().about_to_exec);
    }

    #[test]
    fn no_command_is_said_before_anything_is_started() {
        let finding = start(&Spec::new(&Config::default(), vec![], false), None).err().unwrap();
        assert_eq!(finding.code, Code::ConfigInvalid);
    }
}
