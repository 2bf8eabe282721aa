//! Locks whose holder is known. A thread that panics keeps everything that it holds ([`crate::lifecycle::panic`]), so nothing that
//! needs one of its locks can go on.

use std::cell::Cell;
use std::ops::{Deref, DerefMut};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

thread_local! {
    /// How many locks this thread holds.
    static HELD: Cell<u32> = const { Cell::new(0) };
}

/// Returns whether this thread holds a lock.
pub fn is_held_here() -> bool {
    HELD.get() > 0
}

/// A mutex.
#[derive(Debug, Default)]
pub struct Lock<T>(Mutex<T>);

impl<T> Lock<T> {
    /// Creates a lock that nothing holds.
    pub const fn new(value: T) -> Self {
        Self(Mutex::new(value))
    }

    /// Waits for the lock, which is held until the result is dropped.
    pub fn lock(&self) -> Locked<'_, T> {
        Locked { guard: self.0.lock().unwrap_or_else(PoisonError::into_inner), held: Held::here() }
    }
}

/// A lock that this thread holds. The fields are dropped in this order.
pub struct Locked<'a, T> {
    guard: MutexGuard<'a, T>,
    held: Held,
}

impl<T> Locked<'_, T> {
    /// Releases the lock until `changed` is notified, at most for this long.
    #[must_use]
    pub fn wait(self, changed: &Condvar, longest: Duration) -> Self {
        let Self { guard, held } = self;
        let guard = changed.wait_timeout(guard, longest).unwrap_or_else(PoisonError::into_inner).0;
        Self { guard, held }
    }
}

impl<T> Deref for Locked<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.guard
    }
}

impl<T> DerefMut for Locked<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.guard
    }
}

/// Counts one lock of this thread.
struct Held;

impl Held {
    fn here() -> Self {
        HELD.set(HELD.get() + 1);
        Self
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        HELD.set(HELD.get() - 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_thread_that_holds_a_lock_is_its_holder() {
        let (lock, other) = (Lock::new(1), Lock::new(2));
        assert!(!is_held_here());
        let locked = lock.lock();
        assert!(is_held_here() && !std::thread::spawn(is_held_here).join().unwrap());
        let second = other.lock();
        drop(locked);
        assert!(is_held_here());
        let second = second.wait(&Condvar::new(), Duration::ZERO);
        assert!(is_held_here() && *second == 2);
        drop(second);
        assert!(!is_held_here());
    }
}
