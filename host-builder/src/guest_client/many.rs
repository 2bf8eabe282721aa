//! Many guests at once: none waits for another, and all together have one deadline.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::{self, Builder};
use std::time::{Duration, Instant};

/// Guests that are asked at the same time, each by a thread that does little but wait.
pub const AT_ONCE: usize = 512;
/// Longest time in which whoever waits for results hears nothing.
const TICK: Duration = Duration::from_millis(250);

/// What [`of_each`] tells.
#[derive(Debug)]
pub enum Told<R> {
    /// The result for the thing with this index.
    Came(usize, R),
    /// No result for a moment.
    Quiet,
}

/// Runs `work` on each thing, on up to [`AT_ONCE`] threads, and tells `hear` each result, in the order in which they
/// come, and when none comes for a moment. All is to be over after `timeout`: `work` is given the moment at which to give
/// up. Where there are more things than threads, no thing may take the time of those that come after it.
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
