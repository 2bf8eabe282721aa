//! Programs on a terminal: what they show within a width, by `script` of util-linux, and how they are used, by a pseudo-terminal.

use serde_json::json;
use std::process::{Command, Stdio};

use crate::RigError;

/// Output of a command on a terminal of `columns` columns within `seconds`; then it is interrupted,
/// as by Ctrl-C. Standard output and error are one terminal.
pub fn shown(columns: usize, command: &Command, seconds: u32) -> Result<String, RigError> {
    let quoted = |word: &std::ffi::OsStr| format!("'{}'", word.to_string_lossy().replace('\'', r"'\''"));
    let words: Vec<_> =
        std::iter::once(command.get_program()).chain(command.get_args()).map(quoted).collect();
    // The terminal has its size before the program reads it.
    let line = format!(
        "stty cols {columns} rows 24; exec timeout --foreground -s INT {seconds} {}",
        words.join(" ")
    );
    let mut script = Command::new("script");
    script.args(["--quiet", "--return", "--command", &line, "/dev/null"]);
    script.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    script.env_remove("NO_COLOR").env("TERM", "xterm").stdin(Stdio::null());
    if let Some(directory) = command.get_current_dir() {
        script.current_dir(directory);
    }
    let output = script.output().map_err(|source| RigError::Start { program: "script".into(), source })?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The lines without escape sequences, including those that were overwritten.
pub fn lines(shown: &str) -> Vec<String> {
    let text = shown.replace('\r', "\n");
    text.lines()
        .map(|line| host_builder::common::clean::clean(line, usize::MAX))
        .filter(|line| !line.is_empty())
        .collect()
}

/// A text to wait for, and what is done then.
#[derive(Clone, Copy, Debug)]
pub struct Step<'a>(pub &'a str, pub Do<'a>);

/// What a person does at a terminal.
#[derive(Clone, Copy, Debug)]
pub enum Do<'a> {
    /// Types these keys.
    Type(&'a str),
    /// Gives the window these rows and columns.
    Resize(u16, u16),
}

/// The last line of [`used`] if every step was taken and the terminal's settings are what they were.
pub const AS_BEFORE: &str = "steps left: 0, settings as before: True\n";

const TERMINAL: &str = r#"
import fcntl, json, os, select, struct, subprocess, sys, termios, time
steps, command = json.loads(sys.argv[1]), sys.argv[2:]
master, slave = os.openpty()
size = lambda rows, columns: fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
size(40, 100)
before = termios.tcgetattr(master)
own = lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0)
child = subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, start_new_session=True, preexec_fn=own)
os.close(slave)
screen, seen, end = b"", 0, time.time() + 120
while time.time() < end:
    ready, _, _ = select.select([master], [], [], 0.1)
    try:
        read = os.read(master, 4096) if ready else b""
    except OSError:
        break
    screen += read
    while steps and steps[0][0].encode() in screen[seen:]:
        text, what = steps.pop(0)
        seen = screen.index(text.encode(), seen) + len(text)
        os.write(master, what.encode()) if isinstance(what, str) else size(*what)
    if child.poll() is not None and not ready:
        break
else:
    child.kill()
code = child.wait()
sys.stdout.buffer.write(screen)
print(f"\nsteps left: {len(steps)}, settings as before: {termios.tcgetattr(master) == before}")
sys.exit(code)
"#;

/// Runs a program on a pseudo-terminal of 40 rows and 100 columns for at most two minutes, and takes the steps, one after the other.
/// Returns its exit code and all that was shown, with one line more ([`AS_BEFORE`]).
pub fn used(command: &Command, steps: &[Step]) -> Result<(Option<i32>, String), RigError> {
    let steps: Vec<_> = steps
        .iter()
        .map(|Step(text, what)| match what {
            Do::Type(keys) => json!([text, keys]),
            Do::Resize(rows, columns) => json!([text, [rows, columns]]),
        })
        .collect();
    let mut python = Command::new("/usr/bin/python3");
    python.args(["-c", TERMINAL, &json!(steps).to_string()]).stdin(Stdio::null());
    python.arg(command.get_program()).args(command.get_args());
    if let Some(directory) = command.get_current_dir() {
        python.current_dir(directory);
    }
    let output = python.output().map_err(|source| RigError::Start { program: "python3".into(), source })?;
    let shown = [output.stdout, output.stderr].concat();
    Ok((output.status.code(), String::from_utf8_lossy(&shown).into_owned()))
}
