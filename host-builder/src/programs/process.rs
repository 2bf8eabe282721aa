//! Child programs: run to completion with their output in the error, or in the background until
//! their owner is dropped.

use crate::common::error::{Doing, Error, Result};
use nix::sys::{prctl, signal::Signal};
use std::fs::File;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Output, Stdio};
use std::sync::{LazyLock, mpsc};
use std::thread;
use std::time::{Duration, Instant};

/// How often a condition is checked while waiting for it.
const POLL: Duration = Duration::from_millis(20);
/// Most bytes of a program's output in an error.
const TAIL_BYTES: usize = 4000;

/// Runs `command` to completion. A failure is an error with the tail of both outputs.
pub fn run(command: &mut Command) -> Result<Output> {
    let output =
        command.stdin(Stdio::null()).output().map_err(|error| not_started(&describe(command), error))?;
    if output.status.success() {
        return Ok(output);
    }
    let both = [output.stdout.as_slice(), output.stderr.as_slice()].concat();
    Err(failed(&describe(command), output.status, tail(&String::from_utf8_lossy(&both))))
}

fn not_started(program: &str, error: io::Error) -> Error {
    let hint =
        (error.kind() == io::ErrorKind::NotFound).then_some("install it, and check that it is in PATH");
    let error = Error::new(format!("starting {program}")).source(error);
    match hint {
        Some(hint) => error.hint(hint),
        None => error,
    }
}

fn failed(program: &str, status: ExitStatus, output: &str) -> Error {
    crate::programs::toolroot::explain(&format!("{program} ({status})"), output)
}

/// A background program. It is killed when this is dropped, and when this process ends for any
/// reason.
pub struct Background {
    child: Child,
    program: String,
    log: Option<PathBuf>,
}

impl Background {
    /// Starts `command` with both outputs going to the file `log`.
    pub fn start(mut command: Command, log: &Path) -> Result<Self> {
        let out = File::create(log).doing("creating", log)?;
        let err = out.try_clone().doing("duplicating the descriptor of", log)?;
        // In its own process group: Ctrl-C at the terminal goes to the owner, which then ends the
        // program.
        command.stdin(Stdio::null()).stdout(out).stderr(err).process_group(0);
        Self::spawn(command, Some(log.to_owned()))
    }

    /// Starts `command` with pipes to its standard input and from its standard output. Its standard
    /// error is ours.
    pub fn piped(mut command: Command) -> Result<(Self, ChildStdin, ChildStdout)> {
        // In its own process group, as above.
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).process_group(0);
        let mut started = Self::spawn(command, None)?;
        match (started.child.stdin.take(), started.child.stdout.take()) {
            (Some(input), Some(output)) => Ok((started, input, output)),
            _ => Err(Error::new(format!("{}: no pipes to it", started.program))),
        }
    }

    fn spawn(command: Command, log: Option<PathBuf>) -> Result<Self> {
        let program = describe(&command);
        let child = spawn(command).map_err(|error| not_started(&program, error))?;
        Ok(Self { child, program, log })
    }

    /// Returns its exit status, if it has ended.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        self.child
            .try_wait()
            .map_err(|error| Error::new(format!("waiting for {}", self.program)).source(error))
    }

    /// Waits until it ends.
    pub fn wait(&mut self, deadline: Duration) -> Result<ExitStatus> {
        let ended = poll(deadline, || self.ended())?;
        ended.ok_or_else(|| self.too_late(&format!("the end of {}", self.program), deadline))
    }

    /// Waits until `ready` returns true. It is an error if the program ends early or the deadline
    /// passes.
    pub fn wait_ready(&mut self, deadline: Duration, what: &str, ready: impl Fn() -> bool) -> Result<()> {
        let ended = poll(deadline, || {
            if ready() {
                return Ok(Some(None));
            }
            self.ended().map(|status| status.map(Some))
        })?;
        match ended {
            Some(None) => Ok(()),
            Some(Some(status)) => Err(failed(&self.program, status, &self.output())),
            None => Err(self.too_late(what, deadline)),
        }
    }

    fn too_late(&self, what: &str, deadline: Duration) -> Error {
        let seconds = deadline.as_secs_f32();
        Error::new(format!("{what} did not happen within {seconds} s\n{}", self.output()))
    }

    /// Kills it and waits for it; no error if it had ended.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Process id. It is the program's own if the command ends in `exec`.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The end of its log so far.
    pub fn output(&self) -> String {
        let bytes = self.log.as_ref().and_then(|log| std::fs::read(log).ok()).unwrap_or_default();
        tail(&String::from_utf8_lossy(&bytes)).to_owned()
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Starts `command` so that it does not outlive this process, for whatever reason that ends. The
/// kernel ties this to the *thread* that starts a program, and the caller's thread may end earlier.
/// Therefore, a thread that never ends starts all programs.
fn spawn(mut command: Command) -> io::Result<Child> {
    type Order = (Command, mpsc::Sender<io::Result<Child>>);
    static SPAWNER: LazyLock<mpsc::Sender<Order>> = LazyLock::new(|| {
        let (orders, inbox) = mpsc::channel::<Order>();
        thread::spawn(move || {
            for (mut command, reply) in inbox {
                // If the caller no longer waits, nobody would own the program.
                let _ = reply.send(command.spawn());
            }
        });
        orders
    });
    // SAFETY: the closure makes one system call, which is allowed between fork and exec.
    unsafe { command.pre_exec(|| prctl::set_pdeathsig(Signal::SIGKILL).map_err(io::Error::from)) };
    let (reply, answer) = mpsc::channel();
    SPAWNER.send((command, reply)).map_err(io::Error::other)?;
    answer.recv().map_err(io::Error::other)?
}

/// Calls `condition` until it returns a value. Returns `None` when the deadline has passed.
pub fn poll<T, E>(
    deadline: Duration,
    mut condition: impl FnMut() -> std::result::Result<Option<T>, E>,
) -> std::result::Result<Option<T>, E> {
    let end = Instant::now() + deadline;
    loop {
        if let Some(answer) = condition()? {
            return Ok(Some(answer));
        }
        if Instant::now() >= end {
            return Ok(None);
        }
        thread::sleep(POLL);
    }
}

/// The last few thousand bytes of `text`, from the start of a line if there is one.
pub fn tail(text: &str) -> &str {
    if text.len() <= TAIL_BYTES {
        return text;
    }
    let start =
        (text.len() - TAIL_BYTES..text.len()).find(|&i| text.is_char_boundary(i)).unwrap_or(text.len());
    let cut = &text[start..];
    cut.split_once('\n').map_or(cut, |(_, rest)| rest)
}

/// The command line for messages, shortened, without scripts in its arguments.
fn describe(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let words = words.map(|word| word.to_string_lossy()).filter(|word| !word.contains('\n'));
    words.collect::<Vec<_>>().join(" ").chars().take(400).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failed_program_is_an_error_with_its_output() {
        let error = run(Command::new("sh").args(["-c", "echo out; echo err >&2; exit 3"])).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("exit status: 3") && text.ends_with("out\nerr"), "{text}");
    }

    #[test]
    fn early_exit_ends_the_wait_before_the_deadline() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        let mut command = Command::new("sh");
        command.args(["-c", "echo no; exit 1"]);
        let mut child = Background::start(command, &log).unwrap();
        let error = child.wait_ready(Duration::from_mins(1), "never", || false).unwrap_err();
        assert!(error.to_string().ends_with("failed: no"), "{error}");
    }

    #[test]
    fn dropped_program_is_killed() {
        let dir = tempfile::tempdir().unwrap();
        let mut command = Command::new("sleep");
        command.arg("600");
        let child = Background::start(command, &dir.path().join("log")).unwrap();
        let proc = format!("/proc/{}", child.id());
        drop(child);
        assert!(!Path::new(&proc).exists());
    }

    #[test]
    fn tail_keeps_whole_lines_and_characters() {
        let text = "é\n".repeat(3000);
        let end = tail(&text);
        assert!(end.len() <= TAIL_BYTES && end.starts_with('é') && end.ends_with("é\n"));
        assert_eq!(tail("short"), "short");
    }
}
