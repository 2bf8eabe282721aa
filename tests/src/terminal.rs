//! Programs on a terminal of a given width, by `script` of util-linux.

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
