//! Programs that the rig runs: to their end, with their output in the error, or beside a test, killed when the test is over.

use std::{
    fs::File,
    io,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::{LazyLock, mpsc},
    thread,
    time::{Duration, Instant},
};

use nix::sys::{prctl, signal::Signal};

use crate::RigError;

/// How often a condition is looked at while waiting for it.
const POLL: Duration = Duration::from_millis(20);
/// How much of a program's output an error carries.
const TAIL_BYTES: usize = 4000;

/// Runs `command` to its end; an end without success is an error that carries the tail of both outputs.
pub fn run(command: &mut Command) -> Result<Output, RigError> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .map_err(|source| RigError::Start { program: describe(command), source })?;
    if output.status.success() {
        return Ok(output);
    }
    let both = [output.stdout.as_slice(), output.stderr.as_slice()].concat();
    Err(RigError::Failed {
        program: describe(command),
        status: output.status,
        output: tail(&String::from_utf8_lossy(&both)).to_owned(),
    })
}

/// A program that runs beside the test. It is killed when this is dropped, and when the test process is killed.
pub struct Background {
    child: Child,
    program: String,
    log: PathBuf,
}

impl Background {
    /// Starts `command` with both outputs going to the file `log`.
    pub fn start(mut command: Command, log: &Path) -> Result<Self, RigError> {
        let out = File::create(log).map_err(|e| RigError::io("create", log, e))?;
        let err = out.try_clone().map_err(|e| RigError::io("duplicate the descriptor of", log, e))?;
        let program = describe(&command);
        command.stdin(Stdio::null()).stdout(out).stderr(err);
        let child = spawn(command).map_err(|source| RigError::Start { program: program.clone(), source })?;
        Ok(Self { child, program, log: log.to_owned() })
    }

    /// How it ended, if it did.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>, RigError> {
        self.child.try_wait().map_err(|source| RigError::Start { program: self.program.clone(), source })
    }

    /// Waits until it has ended.
    pub fn wait(&mut self, deadline: Duration) -> Result<ExitStatus, RigError> {
        let ended = poll(deadline, || self.ended())?;
        ended.ok_or_else(|| RigError::Deadline {
            what: format!("the end of {}", self.program),
            deadline,
            context: self.output(),
        })
    }

    /// Waits until `ready` says so. The program's early end is an error, and so is the deadline.
    pub fn wait_ready(
        &mut self,
        deadline: Duration,
        what: &str,
        ready: impl Fn() -> bool,
    ) -> Result<(), RigError> {
        let ended = poll(deadline, || {
            if ready() {
                return Ok(Some(None));
            }
            Ok(self.ended()?.map(Some))
        })?;
        match ended {
            Some(None) => Ok(()),
            Some(Some(status)) => {
                Err(RigError::Failed { program: self.program.clone(), status, output: self.output() })
            }
            None => Err(RigError::Deadline { what: what.to_owned(), deadline, context: self.output() }),
        }
    }

    /// Kills it and waits for it; no error if it had ended.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Process id, which is that of the program itself where the command ends in `exec`.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The end of what it wrote so far.
    pub fn output(&self) -> String {
        let bytes = std::fs::read(&self.log).unwrap_or_default();
        tail(&String::from_utf8_lossy(&bytes)).to_owned()
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Starts `command` so that it does not outlive this process, however that ends. The kernel ties this to the *thread* that starts a
/// program, and a test's thread ends with the test: hence a thread that never ends.
fn spawn(mut command: Command) -> io::Result<Child> {
    type Order = (Command, mpsc::Sender<io::Result<Child>>);
    static SPAWNER: LazyLock<mpsc::Sender<Order>> = LazyLock::new(|| {
        let (orders, inbox) = mpsc::channel::<Order>();
        thread::spawn(move || {
            for (mut command, reply) in inbox {
                // Nobody who waits for the answer means nobody who would keep the program.
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

/// Asks `condition` until it has an answer; `None` when the deadline has passed.
pub fn poll<T>(
    deadline: Duration,
    mut condition: impl FnMut() -> Result<Option<T>, RigError>,
) -> Result<Option<T>, RigError> {
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

/// The last few thousand bytes of `text`, from the start of a line where there is one.
pub fn tail(text: &str) -> &str {
    if text.len() <= TAIL_BYTES {
        return text;
    }
    let start =
        (text.len() - TAIL_BYTES..text.len()).find(|&i| text.is_char_boundary(i)).unwrap_or(text.len());
    let cut = &text[start..];
    cut.split_once('\n').map_or(cut, |(_, rest)| rest)
}

/// The command as one would type it, shortened, and without the scripts among its arguments.
fn describe(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let words = words.map(|word| word.to_string_lossy()).filter(|word| !word.contains('\n'));
    words.collect::<Vec<_>>().join(" ").chars().take(400).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_program_is_an_error_with_its_output() {
        let error = run(Command::new("sh").args(["-c", "echo out; echo err >&2; exit 3"])).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("exit status: 3") && text.contains("out\nerr\n"), "{text}");
    }

    #[test]
    fn waiting_for_a_program_that_ends_at_once_does_not_take_the_deadline() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        let mut command = Command::new("sh");
        command.args(["-c", "echo no; exit 1"]);
        let mut child = Background::start(command, &log).unwrap();
        let error = child.wait_ready(Duration::from_mins(1), "never", || false).unwrap_err();
        assert!(matches!(&error, RigError::Failed { output, .. } if output == "no\n"), "{error:?}");
    }

    #[test]
    fn a_dropped_program_is_killed() {
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
