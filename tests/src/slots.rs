//! Limits the number of guests that run at a time to the number of processors: an emulated guest
//! keeps one processor busy.

use std::{
    cell::Cell,
    sync::{Condvar, Mutex, PoisonError},
    thread::available_parallelism,
};

static RUNNING: Mutex<usize> = Mutex::new(0);
static FREED: Condvar = Condvar::new();

thread_local! {
    /// Slots that this thread holds.
    static MINE: Cell<usize> = const { Cell::new(0) };
}

/// The right to run a guest, returned on drop.
#[derive(Debug)]
pub struct Slot(());

/// Waits for a slot. A thread that holds one gets the next at once: otherwise two tests could each
/// wait for a slot that the other holds.
pub fn take() -> Slot {
    let count = available_parallelism().map_or(1, std::num::NonZero::get);
    let mut running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
    if MINE.get() == 0 {
        running =
            FREED.wait_while(running, |running| *running >= count).unwrap_or_else(PoisonError::into_inner);
    }
    *running += 1;
    MINE.set(MINE.get() + 1);
    Slot(())
}

impl Drop for Slot {
    fn drop(&mut self) {
        *RUNNING.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        // A guest that another thread drops leaves this count too high; then a test may only get a
        // slot out of turn.
        MINE.set(MINE.get().saturating_sub(1));
        FREED.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn guests_are_limited_except_the_second_of_a_test() {
        let (now, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for _ in 0..20 {
                scope.spawn(|| {
                    let _slot = take();
                    most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    std::thread::yield_now();
                    now.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        let count = available_parallelism().unwrap().get();
        assert!(most.into_inner() <= count);
        let first: Vec<_> = (0..=count).map(|_| take()).collect();
        assert_eq!((first.len(), *RUNNING.lock().unwrap()), (count + 1, count + 1));
    }
}
