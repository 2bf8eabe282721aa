//! `exec`: runs a command in the container of a guest.

use crate::common::error::{Error, Result};
use crate::common::terminal::size;
use crate::common::ui::say;
use crate::guest_client::session::{Begun, Input, Session, SessionEnd, Stream, begin};
use crate::guest_client::{QueryError, Target};
use crate::vm::terminal::Terminal;
use clap::Args;
use image::session::{Exec as Wanted, Task};
use nix::sys::signal::{SigSet, Signal};
use std::io::{self, IsTerminal, Read, Write};
use std::process::ExitCode;
use std::thread;

pub(crate) const EXEC_HELP: &str = "\
Examples:
  host-builder exec unix:out/vsock.sock -- nvidia-smi
  host-builder exec -it vsock:5 -- bash
  host-builder exec -i vsock:5 --user 1000 --workdir /data -- tar -x < model.tar

The command joins the container: its namespaces, its control group, its root, and the user, capabilities and environment of its
program. It never runs beside guest-init. The guest accepts it only if it was started with gpu_initrd.control=exec, and its initrd
allows that (build-initrd --control). SIGINT, SIGTERM, SIGQUIT, SIGUSR1 and SIGUSR2 are passed on to the command. When this
program ends or loses the connection, the command receives SIGHUP, and SIGKILL after 5 s. Each command is an event of the guest.

What the command prints reaches the terminal unchanged, as with ssh: do not use a terminal that you would not show to the guest.

Exit codes: that of the command, as in a shell (128 and the number of the signal that killed it); 125 the guest could not be
asked, does not accept it, or the container's program does not run; 126 the command cannot be executed; 127 it was not found.";

/// Exit code if there is no command whose exit code could be used.
pub const NOT_RUN: u8 = 125;
/// Exit code if nobody reads the output any longer: that of a program that SIGPIPE ended.
const PIPE: u8 = 128 + 13;
/// Size of a terminal whose size is unknown.
const USUAL_SIZE: (u16, u16) = (24, 80);

/// Arguments of `exec`.
#[derive(Debug, Args)]
pub struct Exec {
    /// Guest: unix:PATH[:PORT] or vsock:CID[:PORT]. Default port 1042.
    pub target: Target,
    /// The command and its arguments.
    #[arg(value_name = "COMMAND", required = true, last = true)]
    pub command: Vec<String>,
    /// Pass standard input to the command.
    #[arg(long, short)]
    pub interactive: bool,
    /// Give the command a terminal.
    #[arg(long, short)]
    pub tty: bool,
    /// User: NAME, UID, NAME:GROUP or UID:GID in the container [default: that of the container's program].
    #[arg(long, value_name = "USER")]
    pub user: Option<String>,
    /// Variable for the command, in addition to those of the container's program. Without =VALUE: its value here.
    #[arg(long, value_name = "NAME[=VALUE]")]
    pub env: Vec<String>,
    /// Working directory in the container [default: that of the container's program].
    #[arg(long, value_name = "DIR")]
    pub workdir: Option<String>,
}

/// Runs the command, and returns its exit code.
pub fn run(args: &Exec) -> Result<ExitCode> {
    if args.tty && args.interactive && !io::stdin().is_terminal() {
        let error = Error::new("-t with -i needs a terminal on standard input, found none");
        return Err(error.hint("leave out -t"));
    }
    let signals = followed();
    // Before any other thread exists, so that only the thread that waits for them receives them.
    signals.thread_block().map_err(|errno| Error::new(format!("cannot block signals: {errno}")))?;
    match begin(&args.target, &wanted(args))? {
        Begun::NotStarted { message, exit_status } => {
            say(&format!("error: the command was not started: {message}"));
            Ok(ExitCode::from(exit_status))
        }
        Begun::Session(session) => follow(args, session, signals),
    }
}

fn wanted(args: &Exec) -> Wanted {
    let mut env: Vec<_> = args.env.iter().filter_map(|text| variable(text)).collect();
    if args.tty && !env.iter().any(|(name, _)| name == "TERM") {
        env.extend(variable("TERM"));
    }
    Wanted {
        task: Task::Command(args.command.clone()),
        user: args.user.clone(),
        env,
        workdir: args.workdir.clone(),
        terminal: args.tty.then(terminal_size),
    }
}

/// Returns a variable as `NAME=VALUE` or `NAME` says; `None` if `NAME` has no value here.
fn variable(text: &str) -> Option<(String, String)> {
    match text.split_once('=') {
        Some((name, value)) => Some((name.into(), value.into())),
        None => std::env::var(text).ok().map(|value| (text.into(), value)),
    }
}

/// Rows and columns of this terminal.
fn terminal_size() -> (u16, u16) {
    let number = |number: usize| u16::try_from(number).unwrap_or(u16::MAX);
    size().map_or(USUAL_SIZE, |(columns, rows)| (number(rows), number(columns)))
}

/// The signals that are passed on, and the one of a terminal whose size changes.
fn followed() -> SigSet {
    [
        Signal::SIGHUP,
        Signal::SIGINT,
        Signal::SIGTERM,
        Signal::SIGQUIT,
        Signal::SIGUSR1,
        Signal::SIGUSR2,
        Signal::SIGWINCH,
    ]
    .into_iter()
    .collect()
}

/// Carries the session until its command has ended.
fn follow(args: &Exec, session: Session, signals: SigSet) -> Result<ExitCode> {
    let terminal = Terminal::save();
    let is_raw = args.tty && args.interactive;
    if is_raw {
        terminal.raw_for_a_remote_terminal();
    }
    let input = session.input();
    {
        let (input, terminal, has_terminal) = (input.clone(), terminal.clone(), args.tty);
        thread::spawn(move || pass_signals(&signals, &input, has_terminal, &terminal));
    }
    if args.interactive {
        thread::spawn(move || pass_input(input));
    } else {
        // A failed connection is reported by the other direction.
        let _ = input.end();
    }
    let ended = session.run(print);
    if is_raw {
        terminal.restore();
    }
    match ended {
        Ok(SessionEnd::Exited(exit)) => {
            Ok(ExitCode::from(u8::try_from(exit.shell_status()).unwrap_or(u8::MAX)))
        }
        Ok(SessionEnd::NotTaken(error)) if error.kind() == io::ErrorKind::BrokenPipe => {
            Ok(ExitCode::from(PIPE))
        }
        Ok(SessionEnd::NotTaken(error)) => Err(Error::new("cannot print the command's output").source(error)),
        Err(QueryError::Closed { .. } | QueryError::Io { .. }) => {
            Err(Error::new("the connection to the guest was lost while the command ran")
                .hint("check the guest's console: the guest has ended, or is shutting down"))
        }
        Err(error) => Err(error.into()),
    }
}

fn print(stream: Stream, bytes: &[u8]) -> io::Result<()> {
    match stream {
        Stream::Output => {
            let mut out = io::stdout().lock();
            out.write_all(bytes)?;
            out.flush()
        }
        Stream::Errors => io::stderr().lock().write_all(bytes),
    }
}

/// Passes standard input on until its end.
fn pass_input(mut input: Input) {
    let mut buffer = [0; 16 << 10];
    loop {
        match io::stdin().lock().read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => {
                if input.write_all(&buffer[..count]).is_err() {
                    return;
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => break,
        }
    }
    let _ = input.end();
}

/// Passes signals on. After SIGHUP this program has no terminal any longer, and ends.
fn pass_signals(signals: &SigSet, input: &Input, has_terminal: bool, terminal: &Terminal) {
    while let Ok(signal) = signals.wait() {
        let passed = match signal {
            Signal::SIGWINCH if has_terminal => input.resize(terminal_size()),
            Signal::SIGWINCH => Ok(()),
            signal => input.signal(signal as i32),
        };
        if signal == Signal::SIGHUP {
            terminal.restore();
            std::process::exit(128 + Signal::SIGHUP as i32);
        }
        if passed.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Command};
    use clap::Parser;

    fn parsed(words: &[&str]) -> std::result::Result<Exec, clap::Error> {
        let words = ["host-builder", "exec"].iter().chain(words);
        match Cli::try_parse_from(words)?.command {
            Command::Exec(args) => Ok(args),
            _ => unreachable!("the command is exec"),
        }
    }

    #[test]
    fn everything_after_two_dashes_is_the_commands() {
        let args = parsed(&["-it", "vsock:5", "--user", "0:44", "--", "sh", "-c", "--user", "-t"]).unwrap();
        assert!(args.interactive && args.tty);
        assert_eq!(wanted(&args).task, Task::Command(["sh", "-c", "--user", "-t"].map(str::to_owned).into()));
        assert_eq!(args.user.as_deref(), Some("0:44"));
        assert!(parsed(&["vsock:5"]).is_err(), "there is no command");
    }

    #[test]
    fn a_variable_without_a_value_has_that_of_this_process() {
        assert_eq!(variable("A=b=c"), Some(("A".into(), "b=c".into())));
        assert_eq!(variable("A="), Some(("A".into(), String::new())));
        let path = std::env::var("PATH").unwrap();
        assert_eq!(variable("PATH"), Some(("PATH".into(), path)));
        assert_eq!(variable("GPU_INITRD_NO_SUCH_VARIABLE"), None);
    }
}
