//! Helpers: threads without which the boot and the program go on. A panic of one is a finding, and its work begins again.
//!
//! Nothing unwinds here: [`crate::lifecycle::panic`] parks the thread that panicked for ever, with its stack and its descriptors,
//! and another thread takes over.

use super::Board;
use crate::kernel::kmsg_writer;
use crate::locks::Lock;
use image::status::Code;
use std::cell::RefCell;
use std::io;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

/// Pauses before the work begins again: the first and the longest. Each pause is twice the previous one.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// Panics after which a helper is given up, since each costs a thread.
const MAX_PANICS: u32 = 16;

thread_local! {
    /// The helper that this thread works for.
    static HERE: RefCell<Option<Turn>> = const { RefCell::new(None) };
}

/// A helper panicked.
#[derive(Debug, thiserror::Error)]
#[error("helper thread {name} {panicked}; {then}")]
pub struct HelperPanicked {
    name: String,
    /// `panicked at FILE:LINE:COLUMN: MESSAGE`.
    panicked: String,
    /// What becomes of it.
    then: &'static str,
}

/// A helper.
struct Helper {
    name: String,
    board: Board,
    work: Box<dyn Fn() + Send + Sync>,
    /// Whether the work begins again. Otherwise the next call only cleans up.
    is_restarted: bool,
}

/// One attempt of a helper to do its work.
struct Turn {
    helper: Arc<Helper>,
    begun: Instant,
    panics: Panics,
}

/// Starts a thread that does `work`, again after each panic, until it returns. The work must not count on what it has held when it
/// panicked.
///
/// # Errors
/// If the thread cannot be started.
pub fn start(name: &str, board: &Board, work: impl Fn() + Send + Sync + 'static) -> io::Result<()> {
    begin(Helper { name: name.into(), board: board.clone(), work: Box::new(work), is_restarted: true })
}

/// Starts a thread that does `work`, and `clean_up` instead of it after a panic.
///
/// # Errors
/// If the thread cannot be started.
pub fn once(
    name: &str,
    board: &Board,
    work: impl FnOnce() + Send + 'static,
    clean_up: impl Fn() + Send + Sync + 'static,
) -> io::Result<()> {
    let work = Lock::new(Some(work));
    let work = move || {
        let work = work.lock().take();
        match work {
            Some(work) => work(),
            None => clean_up(),
        }
    };
    begin(Helper { name: name.into(), board: board.clone(), work: Box::new(work), is_restarted: false })
}

fn begin(helper: Helper) -> io::Result<()> {
    let turn = Turn { helper: Arc::new(helper), begun: Instant::now(), panics: Panics::default() };
    thread::Builder::new().name(turn.helper.name.clone()).spawn(move || turn.run()).map(drop)
}

/// Makes this thread's panics those of the boot again.
pub fn no_longer() {
    HERE.take();
}

/// Handles the panic of a helper in its thread, which goes on in another one. Returns whether this thread works for a helper.
pub fn panicked_here(panicked: &str) -> bool {
    // A second panic here would abort the process.
    let turn = HERE.try_with(|here| here.try_borrow_mut().ok()?.take());
    let Some(turn) = turn.ok().flatten() else { return false };
    let name = turn.helper.name.clone();
    kmsg_writer::emergency(&format!("{}: helper thread {name} {panicked}", Code::Internal.name()));
    let panicked = panicked.to_owned();
    if let Err(error) = thread::Builder::new().name(name.clone()).spawn(move || turn.after(panicked)) {
        kmsg_writer::emergency(&format!("helper thread {name} is lost: cannot start a thread: {error}"));
    }
    true
}

impl Turn {
    fn run(self) {
        let helper = Arc::clone(&self.helper);
        HERE.set(Some(Self { begun: Instant::now(), ..self }));
        (helper.work)();
        HERE.take();
    }

    /// Reports the panic that ended this turn, and begins the next one.
    fn after(mut self, panicked: String) {
        let pause = self.panics.next_pause(self.begun.elapsed());
        let helper = Arc::clone(&self.helper);
        // Reporting can panic too, which also counts.
        HERE.set(Some(Self { begun: Instant::now(), helper: Arc::clone(&helper), panics: self.panics }));
        let then = match pause {
            _ if !helper.is_restarted => "it is not restarted",
            Some(_) => "it is restarted",
            None => "it is not restarted any more",
        };
        helper.board.report(HelperPanicked { name: helper.name.clone(), panicked, then });
        if let Some(pause) = pause {
            if helper.is_restarted {
                thread::sleep(pause);
            }
            HERE.take();
            self.run();
        }
    }
}

/// The panics of a helper.
#[derive(Debug, Clone, Copy)]
struct Panics {
    count: u32,
    pause: Duration,
}

impl Default for Panics {
    fn default() -> Self {
        Self { count: 0, pause: PAUSES.0 }
    }
}

impl Panics {
    /// Counts a panic after this much work. Returns the pause before the work begins again, or `None` if the helper is given up.
    fn next_pause(&mut self, worked: Duration) -> Option<Duration> {
        self.count += 1;
        // It had recovered from the panic before.
        if worked > PAUSES.1 {
            self.pause = PAUSES.0;
        }
        let pause = self.pause;
        self.pause = PAUSES.1.min(pause * 2);
        (self.count < MAX_PANICS).then_some(pause)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::status::Severity;
    use std::sync::atomic::{AtomicU32, Ordering};

    #[test]
    fn pauses_grow_until_the_helper_has_worked_for_long() {
        let mut panics = Panics::default();
        let mut pauses = |worked, count| {
            let pauses = (0..count).map(|_| panics.next_pause(worked).unwrap().as_secs());
            pauses.collect::<Vec<_>>()
        };
        assert_eq!(pauses(Duration::ZERO, 7), [1, 2, 4, 8, 16, 30, 30]);
        assert_eq!(pauses(Duration::from_secs(31), 2), [1, 1]);
        assert_eq!(pauses(Duration::from_secs(30), 2), [2, 4]);
    }

    #[test]
    fn a_helper_is_given_up_after_some_panics() {
        let mut panics = Panics::default();
        for _ in 1..MAX_PANICS {
            assert!(panics.next_pause(Duration::from_hours(1)).is_some());
        }
        assert_eq!(panics.next_pause(Duration::from_hours(1)), None);
    }

    /// Returns a helper that counts its calls, and the count.
    fn counting(board: &Board, is_restarted: bool) -> (Turn, Arc<AtomicU32>) {
        let count = Arc::new(AtomicU32::new(0));
        let counted = Arc::clone(&count);
        let work = Box::new(move || counted.store(counted.load(Ordering::Relaxed) + 1, Ordering::Relaxed));
        let helper = Helper { name: "test".into(), board: board.clone(), work, is_restarted };
        (Turn { helper: Arc::new(helper), begun: Instant::now(), panics: Panics::default() }, count)
    }

    #[test]
    fn a_panic_of_a_helper_is_a_warning_and_its_work_begins_again() {
        for (count, is_restarted, ending, times) in [
            (0, true, "; it is restarted", 1),
            (MAX_PANICS, true, "; it is not restarted any more", 0),
            (0, false, "; it is not restarted", 1),
        ] {
            let board = Board::new("k".into());
            let (mut turn, counted) = counting(&board, is_restarted);
            turn.panics.count = count;
            turn.after("panicked at x.rs:1:2: on purpose".into());
            let status = board.snapshot();
            let [finding] = &status.findings[..] else { panic!("{:?}", status.findings) };
            assert_eq!((finding.code, finding.severity), (Code::Internal, Severity::Warning));
            let expected = format!("helper thread test panicked at x.rs:1:2: on purpose{ending}");
            assert_eq!((&finding.message, counted.load(Ordering::Relaxed)), (&expected, times));
        }
    }

    #[test]
    fn only_the_thread_of_a_helper_panics_as_one() {
        assert!(!panicked_here("panicked"));
        let board = Board::new("k".into());
        let (sender, receiver) = std::sync::mpsc::channel();
        let work = move || {
            let first = panicked_here("panicked");
            let _ = sender.send((first, panicked_here("panicked")));
        };
        once("test", &board, work, || {}).unwrap();
        assert_eq!(receiver.recv(), Ok((true, false)), "it goes on in another thread");
        let reported = |status: &image::status::Status| !status.findings.is_empty();
        assert!(reported(&board.wait(reported, Instant::now() + Duration::from_mins(1))));
    }
}
