//! What a person sees while a command runs: progress bars on a terminal, plain lines elsewhere, nothing when quiet.
//! All of it goes to standard error; standard output is for results.

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::IsTerminal;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Where progress goes, and how long each stage took.
pub struct Ui {
    quiet: bool,
    terminal: bool,
    /// Several bars can be active: some work is done in parallel.
    bars: MultiProgress,
    begin: Instant,
    stages: Mutex<Vec<(String, Duration)>>,
}

/// What a bar counts.
#[derive(Clone, Copy)]
pub enum Unit {
    /// Bytes.
    Bytes,
    /// Things.
    Count,
}

impl Ui {
    /// `quiet`: say nothing but errors.
    pub fn new(quiet: bool) -> Self {
        Self {
            quiet,
            terminal: std::io::stderr().is_terminal(),
            bars: MultiProgress::with_draw_target(ProgressDrawTarget::stderr()),
            begin: Instant::now(),
            stages: Mutex::default(),
        }
    }

    /// One line.
    pub fn line(&self, text: impl AsRef<str>) {
        if !self.quiet {
            self.bars.suspend(|| eprintln!("{}", text.as_ref()));
        }
    }

    /// Runs one stage and remembers what it took.
    pub fn stage<T, E>(&self, name: &str, work: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
        let start = Instant::now();
        let result = work();
        let took = start.elapsed();
        self.stages.lock().expect("no holder panics").push((name.to_owned(), took));
        result
    }

    /// Time since this was made. It is less than the sum of all stages where some ran in parallel.
    pub fn elapsed(&self) -> Duration {
        self.begin.elapsed()
    }

    /// Stages so far with their durations.
    pub fn stages(&self) -> Vec<(String, Duration)> {
        self.stages.lock().expect("no holder panics").clone()
    }

    /// A bar on a terminal; elsewhere one line that says what begins.
    pub fn bar(&self, label: &str, total: u64, unit: Unit) -> ProgressBar {
        if !self.terminal || self.quiet {
            self.line(format!("{label} …"));
            return ProgressBar::hidden();
        }
        let template = match unit {
            Unit::Bytes => "{msg:28} [{bar:30}] {bytes}/{total_bytes} {bytes_per_sec}",
            Unit::Count => "{msg:28} [{bar:30}] {pos}/{len} {elapsed}",
        };
        let style = ProgressStyle::with_template(template).expect("the template is constant");
        let bar = self.bars.add(ProgressBar::new(total));
        bar.set_style(style.progress_chars("=> "));
        bar.set_message(label.to_owned());
        bar
    }
}

/// Bytes for people: `83.4 MB`.
#[allow(clippy::cast_precision_loss)]
pub fn megabytes(bytes: u64) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
}

/// Prints a result on standard output. Whoever closed it has seen enough.
pub fn print(text: &str) {
    print_bytes(text.as_bytes());
}

/// Prints bytes as they are.
pub fn print_bytes(bytes: &[u8]) {
    use std::io::Write;
    let _ = std::io::stdout().lock().write_all(bytes);
}

/// Prints a part of a result that goes on; `false` when whoever reads it has seen enough.
pub fn print_on(text: &str) -> bool {
    use std::io::Write;
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).is_ok()
}

/// Prints all that can be read; `false` when whoever reads it has seen enough.
pub fn print_from(input: &mut impl std::io::Read) -> std::io::Result<bool> {
    match std::io::copy(input, &mut std::io::stdout().lock()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(false),
        done => done.map(|_| true),
    }
}
