//! Runs the guest: its console goes to the screen and to a file, typed input goes to the guest, and
//! its end determines the exit code.

use super::console::{Detail, Screen};
use super::ending::Ending;
use super::options::Boot;
use super::stop::Stop;
use crate::common::error::{Doing, Error, Result};
use crate::common::interrupt;
use crate::common::interrupt::Action;
use crate::common::ui::{Ui, print_json, say};
use crate::guest_client::SCHEMA;
use crate::programs::tools::Toolroot;
use crate::vm::qemu::{Machine, Vm};
use crate::vm::terminal::Terminal;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::Serialize;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::Path;
use std::process::{ChildStdin, ChildStdout, ExitStatus};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

/// How long QEMU may take to end after SIGTERM.
const GRACE: Duration = Duration::from_secs(3);
/// How often to check whether QEMU has ended.
const POLL: Duration = Duration::from_millis(20);
/// Most pieces of the console that wait to be shown.
const WAITING: usize = 16;
/// Ctrl-], which ends the guest, because Ctrl-C goes to the guest.
const ESCAPE: u8 = 0x1d;

/// The message when a signal ends the guest.
const INTERRUPTED: &str = "the guest was ended from this terminal (exit code 254)";

/// The output of `--json`.
#[derive(Serialize)]
struct Report<'a> {
    /// [`SCHEMA`].
    schema: u32,
    #[serde(flatten)]
    ending: &'a Ending,
    /// The exit code of `boot`.
    code: u8,
    /// The file with the complete console output.
    console: String,
}

/// Runs the machine until it ends. Returns the exit code.
pub fn to_the_end(args: &Boot, machine: &Machine, stop: &Stop, tools: &Toolroot, ui: &Ui) -> Result<u8> {
    let file = log(&args.console)?;
    let terminal = Terminal::save();
    let (mut vm, input, output) = machine.start_piped(tools)?;
    interrupt::means(INTERRUPTED, Ending::Interrupted.code());
    let _on_interrupt = end_on_interrupt(&vm, terminal.clone());
    let _on_first = stop.on_interrupt();
    let escaped = type_into(input, terminal.is_there());
    let mut out: Box<dyn Write + Send> =
        if args.json { Box::new(io::stderr()) } else { Box::new(io::stdout()) };
    let detail = match (args.quiet, args.verbose) {
        (true, _) => Detail::Quiet,
        (_, true) => Detail::Verbose,
        _ => Detail::Normal,
    };
    let mut screen = Screen::new(detail, file, &mut *out);
    let mut session =
        Session { vm: &mut vm, terminal: &terminal, escaped: &escaped, stop, timeout: args.timeout, ui };
    let ended = session.follow(&read(output), &mut screen);
    terminal.restore();
    let ending = ended?;
    tell(args, &ending, &screen);
    Ok(ending.code())
}

/// Monitors a running guest.
struct Session<'a> {
    vm: &'a mut Vm,
    terminal: &'a Terminal,
    escaped: &'a AtomicBool,
    stop: &'a Stop,
    timeout: Option<Duration>,
    ui: &'a Ui,
}

impl Session<'_> {
    fn follow(&mut self, console: &Receiver<Vec<u8>>, screen: &mut Screen) -> Result<Ending> {
        let begin = Instant::now();
        let mut raw = false;
        loop {
            let open = match console.recv_timeout(POLL) {
                Ok(bytes) => {
                    screen.take(&bytes).map_err(|error| self.not_shown(error))?;
                    true
                }
                Err(RecvTimeoutError::Timeout) => true,
                Err(RecvTimeoutError::Disconnected) => false,
            };
            if screen.started && !raw && self.terminal.is_there() {
                raw = true;
                self.ui
                    .line("the program is running; Ctrl-] ends the guest, all other keys go to the program");
                self.terminal.raw();
            }
            if self.escaped.load(Ordering::Relaxed) {
                end(self.vm);
                return Ok(Ending::Interrupted);
            }
            if let Some(after) = self.stop.is_over() {
                say(&format!("the guest did not stop within {} s", after.as_secs()));
                end(self.vm);
                return Ok(Ending::Interrupted);
            }
            if let Some(after) = self.timeout.filter(|timeout| begin.elapsed() >= *timeout) {
                end(self.vm);
                return Ok(Ending::TimedOut { after: after.as_secs() });
            }
            // The console ends with QEMU, so all of it has arrived by then.
            if !open {
                let status = self.wait()?;
                return Ok(told(screen.ending.take(), status));
            }
        }
    }

    fn wait(&mut self) -> Result<ExitStatus> {
        loop {
            if let Some(status) = self.vm.ended()? {
                return Ok(status);
            }
            thread::sleep(POLL);
        }
    }

    fn not_shown(&mut self, error: io::Error) -> Error {
        end(self.vm);
        Error::new("could not write the guest's console")
            .source(error)
            .hint("check that standard output is open, and that the disk of --console is not full")
    }
}

fn told(ending: Option<Ending>, status: ExitStatus) -> Ending {
    match ending {
        Some(ending) if status.success() => ending,
        _ if status.success() => Ending::NoWord { reason: "its last console lines state no reason".into() },
        _ => Ending::NoWord { reason: format!("QEMU ended with {status}") },
    }
}

/// Creates the file for the complete console output.
fn log(path: &Path) -> Result<File> {
    if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        fs::create_dir_all(parent).doing("creating", parent)?;
    }
    File::create(path).doing("creating", path)
}

/// Passes typed input to the guest. Returns `true` if the user pressed the key that ends the guest.
fn type_into(mut guest: ChildStdin, is_terminal: bool) -> Arc<AtomicBool> {
    let escaped = Arc::new(AtomicBool::new(false));
    let pressed = escaped.clone();
    // The thread ends with this process, because a read of a terminal cannot be interrupted.
    thread::spawn(move || {
        let mut buffer = [0; 256];
        while let Ok(length @ 1..) = io::stdin().read(&mut buffer) {
            let typed = &buffer[..length];
            if is_terminal && typed.contains(&ESCAPE) {
                pressed.store(true, Ordering::Relaxed);
                return;
            }
            if guest.write_all(typed).and_then(|()| guest.flush()).is_err() {
                return;
            }
        }
        // The guest's console stays open at the end of the input.
        loop {
            thread::park();
        }
    });
    escaped
}

/// QEMU's output in pieces. The channel closes at its end.
fn read(mut output: ChildStdout) -> Receiver<Vec<u8>> {
    let (sender, receiver) = sync_channel(WAITING);
    thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(length @ 1..) = output.read(&mut buffer) {
            if sender.send(buffer[..length].to_vec()).is_err() {
                return;
            }
        }
    });
    receiver
}

/// Prints the last line: how the guest ended, and where the console output is.
fn tell(args: &Boot, ending: &Ending, screen: &Screen) {
    let console = args.console.display();
    if args.json {
        let report = Report { schema: SCHEMA, ending, code: ending.code(), console: console.to_string() };
        print_json(&format!("{}\n", serde_json::to_string(&report).expect("a report is JSON")));
    }
    let ours = matches!(ending, Ending::Exited { .. } | Ending::PoweredOff);
    if ours && (args.quiet || args.json) {
        return;
    }
    if matches!(ending, Ending::Panicked { .. } | Ending::NoWord { .. }) && !args.verbose {
        say("last lines of the console:");
        screen.last_lines().for_each(|line| say(&format!("  {line}")));
    }
    let more =
        if ours || args.verbose { String::new() } else { format!("; complete console output: {console}") };
    let text = ending.to_string();
    let code = format!("exit code {}", ending.code());
    let code = if text.ends_with(&code) { String::new() } else { format!(" ({code})") };
    say(&format!("{text}{more}{code}"));
}

/// Sends SIGTERM, waits, then sends SIGKILL.
fn end(vm: &mut Vm) {
    let id = Pid::from_raw(i32::try_from(vm.id()).expect("Linux process ids are positive"));
    let _ = kill(id, Signal::SIGTERM);
    if vm.wait(GRACE).is_err() {
        vm.kill();
    }
}

/// Does the same from another thread, then restores the terminal.
fn end_on_interrupt(vm: &Vm, terminal: Terminal) -> Action {
    let id = Pid::from_raw(i32::try_from(vm.id()).expect("Linux process ids are positive"));
    Action::new(move || {
        let end = Instant::now() + GRACE;
        let _ = kill(id, Signal::SIGTERM);
        // The main thread reaps it, and then waits for this one.
        while kill(id, None).is_ok() {
            if Instant::now() >= end {
                let _ = kill(id, Signal::SIGKILL);
                break;
            }
            thread::sleep(POLL);
        }
        terminal.restore();
    })
}
