//! Messages while a command runs: progress bars on a terminal, plain lines elsewhere, nothing when
//! quiet. They go to standard error; standard output is for results.

use super::clean::{clean_json, clean_lines};
use super::error::{Doing, Result};
pub use super::progress::Unit;
use super::progress::{Activity, Progress};
use super::terminal::Look;
pub use super::terminal::{megabytes, say};
use std::io::Write;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The progress output, and the duration of each stage.
pub struct Ui {
    progress: Progress,
    begin: Instant,
    stages: Mutex<Vec<(String, Duration)>>,
}

impl Ui {
    /// `quiet`: print only errors.
    pub fn new(quiet: bool) -> Self {
        Self { progress: Progress::new(quiet), begin: Instant::now(), stages: Mutex::default() }
    }

    /// One line.
    pub fn line(&self, text: impl AsRef<str>) {
        self.progress.line(text.as_ref());
    }

    /// Runs a stage, shows that it is running, and adds up its duration.
    pub fn stage<T, E>(
        &self,
        name: &str,
        work: impl FnOnce() -> std::result::Result<T, E>,
    ) -> std::result::Result<T, E> {
        let start = Instant::now();
        let result = self.during(name, work);
        let took = start.elapsed();
        let mut stages = self.stages.lock().expect("no holder panics");
        match stages.iter_mut().find(|(stage, _)| stage == name) {
            Some((_, sum)) => *sum += took,
            None => stages.push((name.to_owned(), took)),
        }
        drop(stages);
        result
    }

    /// Runs an operation without a count, and shows that it is running.
    pub fn during<T>(&self, label: &str, work: impl FnOnce() -> T) -> T {
        let _shown = self.progress.spinner(label);
        work()
    }

    /// Time since creation. It is less than the sum of all stages if some ran in parallel.
    pub fn elapsed(&self) -> Duration {
        self.begin.elapsed()
    }

    /// Stages so far with their durations.
    pub fn stages(&self) -> Vec<(String, Duration)> {
        self.stages.lock().expect("no holder panics").clone()
    }

    /// Progress with a count: a bar on a terminal until it is dropped; elsewhere a line at the
    /// start, and one now and then.
    pub fn bar(&self, label: &str, total: u64, unit: Unit) -> Activity {
        self.progress.bar(label, total, unit)
    }
}

impl Drop for Ui {
    fn drop(&mut self) {
        if let Progress::Lines(lines) = &self.progress {
            lines.end();
        }
    }
}

/// The first error of standard output.
static REFUSED: Mutex<Option<std::io::Error>> = Mutex::new(None);

/// Prints a cleaned result to standard output, because its names and texts are not trusted.
pub fn print(text: &str) {
    print_bytes(clean_lines(text).as_bytes());
}

/// Prints a cleaned result, wrapped to the width of the terminal.
pub fn print_wrapped(text: &str) {
    print_bytes(Look::of_stdout().wrap(&clean_lines(text)).as_bytes());
}

/// Prints JSON with unsafe characters escaped. The strings stay the same.
pub fn print_json(text: &str) {
    print_bytes(clean_json(text).as_bytes());
}

/// One line of JSON with unsafe characters escaped.
pub fn json_line(value: &impl serde::Serialize) -> String {
    let json = serde_json::to_string(value).expect("there is nothing in it that JSON cannot say");
    clean_json(&json) + "\n"
}

/// Prints a value as JSON, as [`print_json`], piece by piece: of an image it can be much longer
/// than the image.
pub fn print_as_json(value: &impl serde::Serialize) {
    let mut out = Harmless(std::io::BufWriter::new(std::io::stdout().lock()));
    let written = serde_json::to_writer_pretty(&mut out, value).map_err(std::io::Error::from);
    taken(written.and_then(|()| out.write_all(b"\n")).and_then(|()| out.flush()));
}

/// Makes JSON harmless on its way. Its writer gives whole characters.
struct Harmless<W>(W);

impl<W: Write> Write for Harmless<W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let text = std::str::from_utf8(bytes).map_err(std::io::Error::other)?;
        self.0.write_all(clean_json(text).as_bytes())?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.0.flush()
    }
}

/// Prints what was made harmless word by word, and then painted.
pub fn print_painted(text: &str) {
    print_bytes(text.as_bytes());
}

/// Prints raw bytes.
pub fn print_bytes(bytes: &[u8]) {
    taken(std::io::stdout().lock().write_all(bytes));
}

/// Prints a part of a longer result. Returns `false` if the reader has closed the pipe, or on
/// another error.
pub fn print_on(text: &str) -> bool {
    let mut out = std::io::stdout().lock();
    taken(out.write_all(text.as_bytes()).and_then(|()| out.flush()))
}

/// Ignores a closed pipe. Keeps any other error for [`finish`].
fn taken(result: std::io::Result<()>) -> bool {
    match result {
        Ok(()) => true,
        Err(error) => {
            if error.kind() != std::io::ErrorKind::BrokenPipe {
                REFUSED.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
            }
            false
        }
    }
}

/// Writes what is left for standard output. An error when not all of the result could be written:
/// half a document on a full disk is not a success.
pub fn finish() -> Result<()> {
    taken(std::io::stdout().lock().flush());
    match REFUSED.lock().unwrap_or_else(PoisonError::into_inner).take() {
        None => Ok(()),
        Some(error) => Err(error).doing("writing the result to", Path::new("standard output")),
    }
}

/// Prints everything that can be read. Returns `false` if the reader has closed the pipe.
pub fn print_from(input: &mut impl std::io::Read) -> std::io::Result<bool> {
    match std::io::copy(input, &mut std::io::stdout().lock()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(false),
        done => done.map(|_| true),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_harmless_piece_by_piece() {
        let mut out = Harmless(Vec::new());
        serde_json::to_writer_pretty(&mut out, &["\u{202e}\u{9b}\u{7f}\"é\u{e0041}"]).unwrap();
        let text = String::from_utf8(out.0).unwrap();
        assert_eq!(text, "[\n  \"\\u202e\\u009b\\u007f\\\"é\\udb40\\udc41\"\n]");
    }
}
