//! Many guests at once: none waits for another, and only so many are asked at a time.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;

/// Guests that are asked at the same time.
pub const AT_ONCE: usize = 32;

/// Runs `work` on each thing, on up to [`AT_ONCE`] threads, and gives `done` each result with the thing's index, in the
/// order in which they come.
pub fn of_each<T: Sync, R: Send>(
    things: &[T],
    work: impl Fn(&T) -> R + Sync,
    mut done: impl FnMut(usize, R),
) {
    let next = AtomicUsize::new(0);
    // Bounded, so that results do not pile up where `done` is slow.
    let (sender, receiver) = mpsc::sync_channel(AT_ONCE);
    std::thread::scope(|scope| {
        for _ in 0..things.len().min(AT_ONCE) {
            let (sender, next, work) = (sender.clone(), &next, &work);
            scope.spawn(move || {
                while let Some((index, thing)) = take(next, things) {
                    if sender.send((index, work(thing))).is_err() {
                        return;
                    }
                }
            });
        }
        drop(sender);
        for (index, result) in receiver {
            done(index, result);
        }
    });
}

fn take<'a, T>(next: &AtomicUsize, things: &'a [T]) -> Option<(usize, &'a T)> {
    let index = next.fetch_add(1, Ordering::Relaxed);
    things.get(index).map(|thing| (index, thing))
}
