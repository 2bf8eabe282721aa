//! Progress on standard error: bars and spinners on a terminal; elsewhere a line from time to time
//! with the current operation and its progress.

use super::terminal::{self, megabytes, say};
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::IsTerminal;
use std::ops::Deref;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

/// Longest time between two lines without a terminal.
const SILENCE: Duration = Duration::from_secs(15);
/// Time between two frames of a spinner.
const TICK: Duration = Duration::from_millis(250);
/// Terminals narrower than this show numbers without bars.
const ROOM_FOR_BARS: usize = 64;

/// What a bar counts.
#[derive(Clone, Copy)]
pub enum Unit {
    /// Bytes.
    Bytes,
    /// Items.
    Count,
}

/// Where progress is shown.
pub(crate) enum Progress {
    Nowhere,
    Terminal(MultiProgress),
    Lines(Arc<Lines>),
}

/// An operation in progress, until it is dropped.
pub struct Activity {
    bar: ProgressBar,
    /// The list of operations that are printed as lines, and the number in it.
    listed: Option<(Arc<Lines>, u64)>,
}

impl Deref for Activity {
    type Target = ProgressBar;

    fn deref(&self) -> &ProgressBar {
        &self.bar
    }
}

impl Drop for Activity {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
        if let Some((lines, id)) = &self.listed {
            lines.state().active.retain(|active| active.id != *id);
        }
    }
}

impl Progress {
    pub(crate) fn new(is_quiet: bool) -> Self {
        if is_quiet {
            Self::Nowhere
        } else if std::io::stderr().is_terminal() {
            Self::Terminal(MultiProgress::with_draw_target(ProgressDrawTarget::stderr()))
        } else {
            Self::Lines(Lines::start(SILENCE, say))
        }
    }

    /// Prints one line.
    pub(crate) fn line(&self, text: &str) {
        match self {
            Self::Nowhere => {}
            Self::Terminal(bars) => bars.suspend(|| say(text)),
            Self::Lines(lines) => lines.say(text),
        }
    }

    /// Starts an operation with a count.
    pub(crate) fn bar(&self, label: &str, total: u64, unit: Unit) -> Activity {
        match self {
            Self::Nowhere => Activity { bar: ProgressBar::hidden(), listed: None },
            Self::Terminal(bars) => {
                let bar = bars.add(ProgressBar::new(total));
                bar.set_style(style(unit).progress_chars("=> "));
                bar.set_message(label.to_owned());
                Activity { bar, listed: None }
            }
            Self::Lines(lines) => {
                lines.say(&format!("{label} …"));
                let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::hidden());
                Lines::list(lines, label, bar, Some(unit))
            }
        }
    }

    /// Starts an operation without a count.
    pub(crate) fn spinner(&self, label: &str) -> Activity {
        match self {
            Self::Nowhere => Activity { bar: ProgressBar::hidden(), listed: None },
            Self::Terminal(bars) => {
                let bar = bars.add(ProgressBar::new_spinner());
                bar.set_style(
                    ProgressStyle::with_template("{spinner} {msg} {elapsed}")
                        .expect("the template is constant"),
                );
                bar.set_message(label.to_owned());
                bar.enable_steady_tick(TICK);
                Activity { bar, listed: None }
            }
            Self::Lines(lines) => Lines::list(lines, label, ProgressBar::hidden(), None),
        }
    }
}

fn style(unit: Unit) -> ProgressStyle {
    let has_room = terminal::size().is_none_or(|(columns, _)| columns >= ROOM_FOR_BARS);
    let template = match (unit, has_room) {
        (Unit::Bytes, true) => "{msg:28} [{wide_bar}] {bytes}/{total_bytes} {bytes_per_sec}",
        (Unit::Count, true) => "{msg:28} [{wide_bar}] {pos}/{len} {elapsed}",
        // The count comes first, because the label may be cut off.
        (Unit::Bytes, false) => "{bytes}/{total_bytes} {msg}",
        (Unit::Count, false) => "{pos}/{len} {elapsed} {msg}",
    };
    ProgressStyle::with_template(template).expect("the template is constant")
}

/// Progress as lines. A thread prints the current operation after each [`SILENCE`].
pub(crate) struct Lines {
    state: Mutex<State>,
    /// Notified at the end.
    ended: Condvar,
    silence: Duration,
    say: fn(&str),
}

struct State {
    active: Vec<Listed>,
    next_id: u64,
    last_line: Instant,
    is_ended: bool,
}

struct Listed {
    id: u64,
    label: String,
    begin: Instant,
    /// What it counts, if it counts.
    unit: Option<Unit>,
    bar: ProgressBar,
}

impl Lines {
    fn start(silence: Duration, say: fn(&str)) -> Arc<Self> {
        let state = State { active: Vec::new(), next_id: 0, last_line: Instant::now(), is_ended: false };
        let lines = Arc::new(Self { state: Mutex::new(state), ended: Condvar::new(), silence, say });
        let weak = Arc::downgrade(&lines);
        // Without this thread, only the regular progress lines are missing.
        let _ = thread::Builder::new().name("progress".into()).spawn(move || report(&weak));
        lines
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn say(&self, text: &str) {
        let mut state = self.state();
        state.last_line = Instant::now();
        (self.say)(text);
    }

    fn list(lines: &Arc<Self>, label: &str, bar: ProgressBar, unit: Option<Unit>) -> Activity {
        let mut state = lines.state();
        let id = state.next_id;
        state.next_id += 1;
        state.active.push(Listed {
            id,
            label: label.to_owned(),
            begin: Instant::now(),
            unit,
            bar: bar.clone(),
        });
        Activity { bar, listed: Some((Arc::clone(lines), id)) }
    }

    /// Ends all output.
    pub(crate) fn end(&self) {
        self.state().is_ended = true;
        self.ended.notify_all();
    }
}

/// Prints the current operation whenever nothing was printed for a while, until the end.
fn report(lines: &Weak<Lines>) {
    while let Some(lines) = lines.upgrade() {
        let mut state = lines.state();
        if state.is_ended {
            return;
        }
        let silent = state.last_line.elapsed();
        if silent >= lines.silence {
            state.last_line = Instant::now();
            if let Some(text) = state.text(Instant::now()) {
                (lines.say)(&text);
            }
            continue;
        }
        let waited = lines.ended.wait_timeout(state, lines.silence.saturating_sub(silent));
        drop(waited);
    }
}

impl State {
    /// The operations that are counted, or the one that began last, with the time that each has
    /// taken at `now`.
    fn text(&self, now: Instant) -> Option<String> {
        let counted: Vec<_> = self.active.iter().filter(|active| active.unit.is_some()).collect();
        let shown = if counted.is_empty() { self.active.last().into_iter().collect() } else { counted };
        let texts: Vec<_> = shown.into_iter().map(|listed| listed.text(now)).collect();
        (!texts.is_empty()).then(|| format!("… {}", texts.join("; ")))
    }
}

impl Listed {
    fn text(&self, now: Instant) -> String {
        let (done, total) = (self.bar.position(), self.bar.length().unwrap_or_default());
        let took = now.saturating_duration_since(self.begin).as_secs();
        match self.unit {
            None => format!("{}: {took} s so far", self.label),
            Some(Unit::Bytes) => {
                format!("{}: {} of {} in {took} s", self.label, megabytes(done), megabytes(total))
            }
            Some(Unit::Count) => format!("{}: {done} of {total} in {took} s", self.label),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    static SAID: Mutex<Vec<String>> = Mutex::new(Vec::new());

    fn keep(text: &str) {
        SAID.lock().unwrap().push(text.to_owned());
    }

    /// Waits until a line that contains `part` is printed.
    fn is_said(part: &str) {
        let end = Instant::now() + Duration::from_secs(20);
        while !SAID.lock().unwrap().iter().any(|line| line.contains(part)) {
            assert!(Instant::now() < end, "{part:?} is not in {:?}", SAID.lock().unwrap());
            thread::sleep(Duration::from_millis(2));
        }
    }

    #[test]
    fn a_long_operation_is_reported_repeatedly() {
        let begin = Instant::now();
        let progress = Progress::Lines(Lines::start(Duration::from_millis(20), keep));
        let text = |progress: &Progress| {
            let Progress::Lines(lines) = progress else { unreachable!() };
            lines.state().text(begin)
        };
        let stage = progress.spinner("plan");
        assert_eq!(text(&progress).as_deref(), Some("… plan: 0 s so far"));
        is_said("… plan: ");
        let bar = progress.bar("compiling", 190, Unit::Count);
        is_said("compiling …");
        bar.inc(90);
        assert_eq!(text(&progress).as_deref(), Some("… compiling: 90 of 190 in 0 s"));
        is_said("… compiling: 90 of 190 in ");
        let other = progress.bar("downloading", 2_000_000, Unit::Bytes);
        other.inc(1_500_000);
        let both = "… compiling: 90 of 190 in 0 s; downloading: 1.5 MB of 2.0 MB in 0 s";
        assert_eq!(text(&progress).as_deref(), Some(both));
        is_said("; downloading: 1.5 MB of 2.0 MB in ");
        drop((bar, other));
        SAID.lock().unwrap().clear();
        is_said("… plan:");
        drop(stage);
        assert_eq!(text(&progress), None);
        let Progress::Lines(lines) = progress else { unreachable!() };
        lines.end();
    }
}
