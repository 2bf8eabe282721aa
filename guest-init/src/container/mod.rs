//! The container: what it is started with, and starting it.
//!
//! PID 1 has threads, so it does not fork and go on in the child. It starts this same program again with a
//! specification in a pipe; that process, which has one thread, makes the container's world and becomes its program
//! ([`stage`]). What goes wrong there comes back through another pipe as a finding.

pub mod cgroup;
mod identity;
mod stage;
mod terminal;
mod world;

pub use stage::{become_init, run as run_stage};
pub use terminal::Terminal;

use crate::report::{self, with_evidence};
use image::config::{Config, Volume};
use image::status::{Code, Finding, Node};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde::{Deserialize, Serialize};
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

/// First argument of the process that becomes the container.
pub const STAGE: &str = "--container-stage";
/// The stage's last byte on its pipe before the program takes its place. A finding, which is JSON, may still follow.
const ABOUT_TO_EXEC: u8 = b'>';
/// The image's init, when no command is given.
pub const DEFAULT_INIT: &str = "/sbin/init";
/// Longest time from starting the stage to running the program.
const STAGE_TIMEOUT: Duration = Duration::from_mins(1);
/// Findings that come back are no longer than this.
const MAX_REPORT: u64 = 64 << 10;

/// Everything the container's first process needs to know.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Spec {
    command: Vec<String>,
    env: Vec<(String, String)>,
    workdir: String,
    user: String,
    nodes: Vec<Node>,
    volumes: Vec<Volume>,
    /// The driver is linked to where programs of Nix and Guix look.
    store: bool,
}

impl Spec {
    /// From the configuration, the GPU's nodes, and whether programs of Nix or Guix look for the driver.
    pub fn new(config: &Config, nodes: Vec<Node>, store: bool) -> Self {
        let mut env: Vec<(String, String)> = config.env.clone().into_iter().collect();
        for (name, value) in [("PATH", crate::inject::DEFAULT_PATH), ("TERM", "linux")] {
            if !config.env.contains_key(name) {
                env.push((name.into(), value.into()));
            }
        }
        Self {
            command: config.command(),
            env,
            workdir: config.workdir.clone(),
            user: config.user.clone(),
            nodes,
            volumes: config.volumes.clone(),
            store,
        }
    }

    /// The command, for the status.
    pub fn command(&self) -> &[String] {
        &self.command
    }
}

/// Starts the container, on this terminal or on the console, and returns once its program runs.
///
/// # Errors
/// The finding that says why it does not run.
pub fn start(spec: &Spec, terminal: Option<OwnedFd>) -> Result<Child, Finding> {
    if spec.command.is_empty() {
        return Err(report::error(
            Code::ConfigInvalid,
            "there is no command to run: neither entrypoint nor cmd is given",
            "give them in config.json, or write the command on the kernel command line after ` -- `",
        ));
    }
    let (mut child, report) = spawn(spec, terminal)
        .map_err(|error| internal(&format!("starting the container failed: {error}")))?;
    // It ends when the program runs (the pipe closes on exec), or when the stage has said why not.
    let Some(mut text) = read_to_end(report, STAGE_TIMEOUT) else {
        let _ = child.kill();
        let waited = STAGE_TIMEOUT.as_secs();
        return Err(internal(&format!(
            "waited {waited} s for the container's program to start: a mount, or the program's file, does not answer"
        )));
    };
    match &text[..] {
        [ABOUT_TO_EXEC] => return Ok(child),
        [] => {
            let ended = child.wait().map_or_else(|error| error.to_string(), |status| status.to_string());
            return Err(internal(&format!(
                "the container's first process ended before the program: {ended}"
            )));
        }
        [ABOUT_TO_EXEC, ..] => drop(text.remove(0)),
        _ => {}
    }
    Err(serde_json::from_slice(&text).unwrap_or_else(|error| {
        let raw = String::from_utf8_lossy(&text).into_owned();
        with_evidence(
            internal(&format!("the container's first process failed unreadably: {error}")),
            vec![raw],
        )
    }))
}

/// What a pipe has until its end, or `None` when that does not come in time.
fn read_to_end(pipe: File, timeout: Duration) -> Option<Vec<u8>> {
    let deadline = Instant::now() + timeout;
    let mut pipe = pipe.take(MAX_REPORT);
    let mut text = Vec::new();
    loop {
        let left = deadline.saturating_duration_since(Instant::now()).as_millis();
        let mut fds = [PollFd::new(pipe.get_ref().as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)) {
            Ok(0) => return None,
            Err(nix::Error::EINTR) => continue,
            _ => {}
        }
        let mut part = [0; 4096];
        match pipe.read(&mut part) {
            Ok(0) => return Some(text),
            Ok(length) => text.extend_from_slice(&part[..length]),
            Err(error) => {
                log::warn!("container: {error}");
                return Some(text);
            }
        }
    }
}

fn spawn(spec: &Spec, terminal: Option<OwnedFd>) -> io::Result<(Child, File)> {
    let (spec_read, spec_write) = std::io::pipe()?;
    let (report_read, report_write) = std::io::pipe()?;
    inherit(&spec_read)?;
    inherit(&report_write)?;
    terminal.iter().try_for_each(inherit)?;
    let child = Command::new("/proc/self/exe")
        .arg(STAGE)
        .arg(spec_read.as_raw_fd().to_string())
        .arg(report_write.as_raw_fd().to_string())
        .args(terminal.as_ref().map(|fd| fd.as_raw_fd().to_string()))
        .env_clear()
        .spawn()?;
    drop((spec_read, report_write, terminal));
    let mut spec_write = File::from(OwnedFd::from(spec_write));
    spec_write.write_all(&serde_json::to_vec(spec).map_err(io::Error::other)?)?;
    Ok((child, File::from(OwnedFd::from(report_read))))
}

/// Lets a descriptor pass through exec.
pub fn inherit(fd: &impl std::os::fd::AsFd) -> io::Result<()> {
    use nix::fcntl::{FcntlArg, FdFlag, fcntl};
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
    report::error(Code::Internal, message, "this is a defect of guest-init, or the guest is out of memory")
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
        assert_eq!(path(&config), [crate::inject::DEFAULT_PATH]);
        config.env.insert("PATH".into(), "/x".into());
        assert_eq!(path(&config), ["/x"]);
    }

    #[test]
    fn a_report_that_does_not_end_is_not_waited_for_beyond_its_deadline() {
        let pipe = || std::io::pipe().map(|(read, write)| (File::from(OwnedFd::from(read)), write)).unwrap();
        let (read, mut write) = pipe();
        write.write_all(&[ABOUT_TO_EXEC]).unwrap();
        assert_eq!(read_to_end(read, Duration::from_millis(20)), None);
        let (read, mut write) = pipe();
        write.write_all(&[ABOUT_TO_EXEC]).unwrap();
        drop(write);
        assert_eq!(read_to_end(read, Duration::from_secs(20)), Some(vec![ABOUT_TO_EXEC]));
    }

    #[test]
    fn no_command_is_said_before_anything_is_started() {
        let finding = start(&Spec::new(&Config::default(), vec![], false), None).unwrap_err();
        assert_eq!(finding.code, Code::ConfigInvalid);
    }
}
