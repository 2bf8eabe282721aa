//! From PID 1 to the container's program, in three processes.
//!
//! The stage enters the control group, forks a child into a new PID namespace and exits, so that PID 1 of the guest becomes
//! the parent of the child. The child, PID 1 of the namespace, sets up the container's namespaces, starts the program, and
//! stays as its reaper. The program is not PID 1, so signals have their default effects on it.

use super::namespace::{ContainerKind, World};
use super::own_program::inherited;
use super::volume::Volumes;
use super::{ContainerError, Said, Spec, cgroup, confine, user};
use crate::confined_fs::RootDir;
use crate::driver_files::is_driver_program;
use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{SigHandler, SigSet, SigmaskHow, Signal, signal, sigprocmask};
use nix::unistd::{ForkResult, Gid, Pid, Uid, execve, fchdir, fork, setgid, setgroups, setsid, setuid};
use serde::de::DeserializeOwned;
use std::convert::Infallible;
use std::ffi::{CString, OsString};
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

nix::ioctl_write_int_bad!(
    /// Makes a terminal the controlling one of this session.
    set_controlling_terminal,
    libc::TIOCSCTTY
);

/// The descriptors that the stage inherited.
struct Given {
    /// Pipe for what it is to do.
    orders: Orders,
    /// Pipe for the result of the start.
    report: Report,
    /// Pipe for the exit status of the program.
    exit: File,
    /// The container's own terminal, if it has one.
    terminal: Option<OwnedFd>,
    reaper: &'static Reaper,
}

/// The functions of the container's PID 1, which are implemented with those of the guest's PID 1.
pub struct Reaper {
    /// Blocks the signals that the reaper waits for.
    pub block_signals: fn(),
    /// Reaps until the program has ended, writes its exit status to the file, and exits.
    pub run: fn(Pid, &mut File) -> !,
}

/// The pipe for [`Said`].
pub(super) struct Report(pub(super) File);

impl Report {
    pub(super) fn say(&mut self, said: &Said) {
        let mut line = serde_json::to_vec(said).unwrap_or_default();
        line.push(b'\n');
        // In one write, so that the lines of two processes do not mix. A failure cannot be reported.
        let _ = self.0.write_all(&line);
    }
}

/// What PID 1 of the guest tells the stage: first its specification, and, when everything else is ready, the device nodes of the driver.
struct Orders(BufReader<File>);

impl Orders {
    /// Waits for the next one.
    fn next<T: DeserializeOwned>(&mut self) -> Result<T, ContainerError> {
        let mut line = Vec::new();
        let read = self.0.read_until(b'\n', &mut line).map_err(|error| error.to_string());
        read.and_then(|_| serde_json::from_slice(&line).map_err(|error| error.to_string()))
            .map_err(|error| failed(&format!("cannot parse what the container is to be: {error}")))
    }
}

/// Runs the stage. `args` are the descriptor numbers of the pipes for the orders, the result of the start and the exit
/// status of the program, and of the terminal if the container has its own.
/// Returns only on failure.
pub fn run(args: &[OsString], reaper: &'static Reaper) -> i32 {
    let (Some(orders), Some(report), Some(exit)) =
        (inherited(args, 0), inherited(args, 1), inherited(args, 2))
    else {
        return 2;
    };
    let terminal = inherited(args, 3);
    crate::kernel::kmsg_writer::start_logging("info");
    let orders = Orders(BufReader::new(orders.into()));
    let mut given = Given { orders, report: Report(report.into()), exit: exit.into(), terminal, reaper };
    let Err(error) = given.orders.next().and_then(|spec| separate(spec, &mut given));
    given.report.say(&Said::Failed(error));
    127
}

/// Reads what this process is to do from a pipe.
pub(super) fn read_json<T: DeserializeOwned>(fd: OwnedFd) -> Result<T, ContainerError> {
    let mut bytes = Vec::new();
    let read = File::from(fd).read_to_end(&mut bytes).map_err(|error| error.to_string());
    read.and_then(|_| serde_json::from_slice(&bytes).map_err(|error| error.to_string()))
        .map_err(|error| failed(&format!("cannot parse the container specification: {error}")))
}

/// Forks a child into a new PID namespace, and exits.
fn separate(spec: Spec, given: &mut Given) -> Result<Infallible, ContainerError> {
    cgroup::join().map_err(|error| failed(&format!("cannot join the container's control group: {error}")))?;
    unshare(CloneFlags::CLONE_NEWPID).map_err(|errno| {
        failed(&format!("cannot create a PID namespace (the kernel needs CONFIG_PID_NS): {errno}"))
    })?;
    match divide()? {
        ForkResult::Parent { child } => {
            given.report.say(&Said::First(child.as_raw()));
            std::process::exit(0)
        }
        ForkResult::Child => be_first(spec, given),
    }
}

/// Opens /dev/null, to take the place of a descriptor that another process must not wait for.
pub(super) fn open_null() -> Result<File, ContainerError> {
    let null = File::options().read(true).write(true).open("/dev/null");
    null.map_err(|error| failed(&format!("/dev/null: {error}")))
}

pub(super) fn divide() -> Result<ForkResult, ContainerError> {
    // SAFETY: this process has one thread, so its child can do whatever it could.
    unsafe { fork() }.map_err(|errno| failed(&format!("cannot start a process: {errno}")))
}

/// Runs PID 1 of the namespace: sets up the namespaces, starts the program, and stays until it has ended.
fn be_first(mut spec: Spec, given: &mut Given) -> Result<Infallible, ContainerError> {
    (given.reaper.block_signals)();
    confine::hide();
    let Given { orders, report, terminal, .. } = given;
    let world = make_world(&spec, ContainerKind::Program, terminal.as_ref(), &mut |warning| {
        report.say(&Said::Warned(warning));
    })?;
    spec.nodes = orders.next()?;
    world.finish(&spec).map_err(|error| failed(&error))?;
    let null = open_null()?;
    match divide()? {
        ForkResult::Parent { child } => {
            // Only the program has the terminal, and its exec closes the report pipe.
            become_standard(&null);
            given.terminal = None;
            given.report = Report(null);
            // A container must not run with more capabilities than configured.
            if confine::keep_little(spec.capabilities).is_err() {
                std::process::exit(127);
            }
            (given.reaper.run)(child, &mut given.exit)
        }
        ForkResult::Child => become_program(&spec, given),
    }
}

fn become_program(spec: &Spec, given: &mut Given) -> Result<Infallible, ContainerError> {
    own_terminal(given.terminal.take());
    reset_signals();
    let root = RootDir::open(Path::new("/")).map_err(|error| failed(&error.to_string()))?;
    // If it cannot be created, entering it reports why.
    let _ = root.create_dir_all(Path::new(&spec.workdir));
    run_program(spec, &root, &mut given.report)
}

/// Becomes the command of the specification, as its user, in this root, which is that of this process.
pub(super) fn run_program(
    spec: &Spec,
    root: &RootDir,
    report: &mut Report,
) -> Result<Infallible, ContainerError> {
    let identity = user::lookup(root, &spec.user).map_err(ContainerError::User)?;
    // /dev/stdout leads to the terminal, which only its owner may reopen.
    for standard in 0..3 {
        // SAFETY: the numbers are those of this process's own standard descriptors; a closed one only gives an error.
        let _ = unsafe { libc::fchown(standard, identity.uid, libc::gid_t::MAX) };
    }
    confine::bound(spec.capabilities).map_err(|error| failed(&error))?;
    let groups: Vec<_> = identity.groups.iter().map(|gid| Gid::from_raw(*gid)).collect();
    let switched = setgroups(&groups)
        .and_then(|()| setgid(Gid::from_raw(identity.gid)))
        .and_then(|()| setuid(Uid::from_raw(identity.uid)));
    switched.map_err(|errno| failed(&format!("cannot switch to user {}: {errno}", identity.uid)))?;
    // As that user, and not through a link of /proc, which could lead out of the root.
    enter(root, Path::new(&spec.workdir))?;
    if spec.no_new_privs {
        nix::sys::prctl::set_no_new_privs()
            .map_err(|errno| failed(&format!("cannot set no_new_privs: {errno}")))?;
    }
    let mut env = spec.env.clone();
    if !env.iter().any(|(name, _)| name == "HOME") {
        env.push(("HOME".into(), identity.home));
    }
    // Without this message, the end of the pipe means that this process ended before the program started.
    report.say(&Said::AboutToExec);
    execute(&spec.command, &env)
}

fn enter(root: &RootDir, workdir: &Path) -> Result<(), ContainerError> {
    let invalid =
        |what: String| ContainerError::WorkingDirectory { path: workdir.display().to_string(), what };
    let directory = root.open_dir(workdir).map_err(|error| invalid(image::text::chain(&error)))?;
    fchdir(&directory).map_err(|errno| invalid(errno.to_string()))
}

/// Sets up the container root, its volumes and the kernel's file systems for this process: all but device nodes.
fn make_world(
    spec: &Spec,
    kind: ContainerKind,
    terminal: Option<&OwnedFd>,
    warn: &mut dyn FnMut(ContainerError),
) -> Result<World, ContainerError> {
    let mut world = World::new(kind, terminal).map_err(|error| failed(&error))?;
    let volumes = Volumes::stage(spec, warn)?;
    world.enter(kind == ContainerKind::Program && spec.confined()).map_err(|error| failed(&error))?;
    volumes.place(&world.root, warn)?;
    Ok(world)
}

/// PID 1 itself becomes the image's init. `warn` receives what it starts without; `ready` is called right
/// before the exec. Returns only on failure.
///
/// # Errors
/// [`ContainerError`].
pub fn become_init(
    spec: &Spec,
    warn: &mut dyn FnMut(ContainerError),
    ready: &mut dyn FnMut() -> std::io::Result<()>,
) -> Result<Infallible, ContainerError> {
    let world = make_world(spec, ContainerKind::Init, None, warn)?;
    world.finish(spec).map_err(|error| failed(&error))?;
    ready().map_err(|error| {
        failed(&format!("cannot notify the process that keeps answering status requests: {error}"))
    })?;
    reset_signals();
    let command =
        if spec.command.is_empty() { vec![super::DEFAULT_INIT.to_owned()] } else { spec.command.clone() };
    execute(&command, &spec.env)
}

/// Starts a session on the terminal or the console, so that job control and Ctrl-C work.
fn own_terminal(terminal: Option<OwnedFd>) {
    if setsid().is_err() {
        return;
    }
    let console = || File::options().read(true).write(true).open("/dev/console").ok().map(OwnedFd::from);
    let Some(console) = terminal.or_else(console) else { return };
    // SAFETY: the descriptor is open, and the argument is the integer that TIOCSCTTY takes.
    let _ = unsafe { set_controlling_terminal(console.as_raw_fd(), 1) };
    become_standard(&console);
}

/// Makes a descriptor standard input, output and error.
pub(super) fn become_standard(fd: &impl AsRawFd) {
    for standard in 0..3 {
        // SAFETY: both numbers are open descriptors of this process; dup2 has no other requirement.
        unsafe { libc::dup2(fd.as_raw_fd(), standard) };
    }
}

/// PID 1 blocks signals to wait for them, and Rust ignores SIGPIPE; a program expects neither.
pub(super) fn reset_signals() {
    let _ = sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None);
    // SAFETY: the default action is no function of ours, so nothing can run in a signal handler.
    let _ = unsafe { signal(Signal::SIGPIPE, SigHandler::SigDfl) };
}

fn execute(command: &[String], env: &[(String, String)]) -> Result<Infallible, ContainerError> {
    let text = |text: String| {
        CString::new(text).map_err(|_| failed("the command or its environment contains a NUL byte"))
    };
    let program = &command[0];
    let arguments = command.iter().cloned().map(text).collect::<Result<Vec<_>, _>>()?;
    let environment = env.iter().map(|(k, v)| text(format!("{k}={v}"))).collect::<Result<Vec<_>, _>>()?;
    let path = env.iter().find(|(name, _)| name == "PATH").map_or("", |(_, path)| path.as_str());
    let mut worst = Errno::ENOENT;
    for candidate in candidates(program, path) {
        let Err(errno) = execve(&text(candidate)?, &arguments, &environment);
        // Like execvp: continue, but remember that a file exists.
        if !matches!(errno, Errno::ENOENT | Errno::ENOTDIR) {
            worst = errno;
        }
    }
    Err(not_executed(program, worst, path))
}

fn candidates(program: &str, path: &str) -> Vec<String> {
    if program.contains('/') {
        return vec![program.to_owned()];
    }
    path.split(':')
        .map(|dir| if dir.is_empty() { program.to_owned() } else { format!("{dir}/{program}") })
        .collect()
}

fn not_executed(program: &str, errno: Errno, path: &str) -> ContainerError {
    if errno != Errno::ENOENT {
        return ContainerError::NotExecutable { program: program.into(), errno: errno.to_string() };
    }
    // A missing interpreter or loader returns the same errno.
    if let Some(found) = candidates(program, path).into_iter().find(|file| Path::new(file).exists()) {
        return ContainerError::NoInterpreter(found);
    }
    let searched =
        if program.contains('/') { "the image".to_owned() } else { format!("any directory of PATH: {path}") };
    let of_driver = is_driver_program(Path::new(program).file_name().unwrap_or_default());
    ContainerError::ProgramNotFound { program: program.into(), searched, of_driver }
}

pub(super) fn failed(what: &str) -> ContainerError {
    ContainerError::Setup(what.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::status::{Code, Finding};

    #[test]
    fn a_name_is_looked_for_in_path_and_a_path_is_taken_as_it_is() {
        assert_eq!(candidates("/bin/x", "/a:/b"), ["/bin/x"]);
        assert_eq!(candidates("x", "/a::/b"), ["/a/x", "x", "/b/x"]);
    }

    #[test]
    fn a_missing_program_differs_from_one_that_cannot_be_executed() {
        let failed = |program, errno, path| -> Finding { Finding::from(not_executed(program, errno, path)) };
        assert_eq!(failed("nope", Errno::ENOENT, "/bin").code, Code::EntrypointNotFound);
        let drivers = failed("nvidia-smi", Errno::ENOENT, "/bin");
        assert!(
            drivers.code == Code::EntrypointNotFound && drivers.message.contains("program of the driver")
        );
        assert_eq!(failed("/nope", Errno::ENOENT, "").code, Code::EntrypointNotFound);
        assert_eq!(failed("/proc", Errno::ENOENT, "").code, Code::EntrypointNotExecutable);
        assert_eq!(failed("/x", Errno::EACCES, "").code, Code::EntrypointNotExecutable);
        let found = failed("self", Errno::ENOENT, "/nowhere:/proc");
        assert_eq!(found.code, Code::EntrypointNotExecutable);
        assert!(found.message.starts_with("/proc/self is in the image"), "{}", found.message);
    }
}
