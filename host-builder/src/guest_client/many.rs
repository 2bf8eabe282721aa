//! Queries many guests in parallel, with one deadline for all of them.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::{self, Builder};
use std::time::{Duration, Instant};

/// Number of guests that are queried in parallel, each by a thread that mostly waits.
pub const AT_ONCE: usize = 512;
/// Longest time between two calls of `hear`.
const TICK: Duration = Duration::from_millis(250);

/// What [`of_each`] reports.
#[derive(Debug)]
pub enum Told<R> {
    /// The result for the thing with this index.
    Came(usize, R),
    /// No result for a moment.
    Quiet,
}

/// Runs `work` on each thing with up to [`AT_ONCE`] threads. Calls `hear` with each result in the
/// order of completion, and when there is none for a moment. Everything must end within `timeout`:
/// `work` receives its deadline. If there are more things than threads, no thing may use the time
/// of later ones.
pub fn of_each<T: Sync, R: Send>(
    things: &[T],
    timeout: Duration,
    work: impl Fn(&T, Instant) -> R + Sync,
    mut hear: impl FnMut(Told<R>),
) {
    let end = Instant::now() + timeout;
    let share = timeout / u32::try_from(things.len().div_ceil(AT_ONCE)).unwrap_or(u32::MAX).max(1);
    let next = AtomicUsize::new(0);
    let take = || {
        let index = next.fetch_add(1, Ordering::Relaxed);
        let thing = things.get(index)?;
        Some((index, work(thing, end.min(Instant::now() + share))))
    };
    // Bounded, so that results do not pile up where `hear` is slow.
    let (sender, receiver) = mpsc::sync_channel(AT_ONCE);
    thread::scope(|scope| {
        for _ in 0..things.len().min(AT_ONCE) {
            let (sender, take) = (sender.clone(), &take);
            let ask = move || {
                while let Some(result) = take() {
                    if sender.send(result).is_err() {
                        return;
                    }
                }
            };
            // Out of threads, say: those that there are do it.
            if Builder::new().spawn_scoped(scope, ask).is_err() {
                break;
            }
        }
        drop(sender);
        loop {
            match receiver.recv_timeout(TICK) {
                Ok((index, result)) => hear(Told::Came(index, result)),
                Err(RecvTimeoutError::Timeout) => hear(Told::Quiet),
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        // Not one thread was to be had.
        while let Some((index, result)) = take() {
            hear(Told::Came(index, result));
        }
    });
}
