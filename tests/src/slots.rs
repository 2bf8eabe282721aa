//! Limits the guests that run at a time: as many as there are processors, since an emulated guest that works keeps one busy, and more
//! while processors are idle, since many guests wait for a deadline most of their time.

use std::{
    cell::Cell,
    fs,
    sync::{Condvar, Mutex, PoisonError},
    thread::available_parallelism,
    time::{Duration, Instant},
};

/// Guests for each processor, at most: what memory allows.
const MOST: usize = 4;
/// Time in which a guest that has started is busy, and shows in the figures of the next one.
const SETTLE: Duration = Duration::from_secs(2);
/// Interval at which the processors are looked at.
const LOOK: Duration = Duration::from_millis(250);
/// Idle time of one processor, of all the time since the last guest started, that is enough for another guest.
const IDLE: f64 = 0.8;

static STATE: Mutex<State> = Mutex::new(State { running: 0, last: None });
static FREED: Condvar = Condvar::new();

struct State {
    running: usize,
    /// When the last guest started, and the idle time of all processors then.
    last: Option<(Instant, Duration)>,
}

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
    let mut state = STATE.lock().unwrap_or_else(PoisonError::into_inner);
    while MINE.get() == 0 && !state.has_room() {
        state = FREED.wait_timeout(state, LOOK).unwrap_or_else(PoisonError::into_inner).0;
    }
    state.running += 1;
    state.last = Some((Instant::now(), idle_time()));
    MINE.set(MINE.get() + 1);
    Slot(())
}

impl State {
    fn has_room(&self) -> bool {
        let count = processors();
        let Some((started, idle)) = self.last.filter(|_| self.running >= count) else { return true };
        let passed = started.elapsed();
        let free = idle_time().saturating_sub(idle).as_secs_f64() / passed.as_secs_f64();
        self.running < count * MOST && passed > SETTLE && free > IDLE
    }
}

fn processors() -> usize {
    available_parallelism().map_or(1, std::num::NonZero::get)
}

/// Time that all processors together have been idle since the machine started: the fourth figure of /proc/stat, in hundredths of a second.
fn idle_time() -> Duration {
    let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
    let idle = stat.split_whitespace().nth(4).and_then(|figure| figure.parse().ok());
    Duration::from_millis(idle.unwrap_or(0_u64) * 10)
}

impl Drop for Slot {
    fn drop(&mut self) {
        STATE.lock().unwrap_or_else(PoisonError::into_inner).running -= 1;
        // A guest that another thread drops leaves this count too high; then a test may only get a
        // slot out of turn.
        MINE.set(MINE.get().saturating_sub(1));
        FREED.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guests_are_limited_except_the_second_of_a_test() {
        let count = processors();
        let (now, idle) = (Instant::now(), idle_time());
        let long_ago = now.checked_sub(SETTLE * 2).unwrap();
        let state = |running, last| State { running, last };
        assert!(state(count - 1, Some((now, idle))).has_room());
        assert!(!state(count, Some((now, idle))).has_room(), "the last one has just started");
        assert!(!state(count, Some((long_ago, idle))).has_room(), "no processor was idle since");
        let all_idle = Some((long_ago, idle.saturating_sub(SETTLE * 2)));
        assert!(state(count, all_idle).has_room());
        assert!(!state(count * MOST, all_idle).has_room());
        let first: Vec<_> = (0..=count).map(|_| take()).collect();
        assert_eq!((first.len(), STATE.lock().unwrap().running), (count + 1, count + 1));
    }
}
