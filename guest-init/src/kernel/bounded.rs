//! Kernel calls that a disk, a share or a device can block for ever: mounts, modules, unmounts. Each has a deadline. A call that
//! misses it is left behind in its thread, since nothing can interrupt it.

use std::any::Any;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

/// The deadline in milliseconds; 0: none.
static LIMIT: AtomicU64 = AtomicU64::new(0);

/// A call did not return in time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{step} did not end within {} s: what it waits for does not respond", .limit.as_secs_f32())]
pub struct TimedOut {
    /// What was done: `mounting /dev/vda`.
    pub step: String,
    /// Its deadline.
    pub limit: Duration,
}

impl From<TimedOut> for io::Error {
    fn from(error: TimedOut) -> Self {
        Self::new(io::ErrorKind::TimedOut, error)
    }
}

/// Sets the deadline of the calls of this process. Without it they have none: a process that forks must not have threads.
pub fn set_limit(limit: Duration) {
    LIMIT.store(u64::try_from(limit.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
}

/// Runs `work` in a thread, and returns its result if it comes in time.
///
/// # Errors
/// [`TimedOut`]; the thread then stays.
pub fn bounded<T: Send + 'static>(
    step: String,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, TimedOut> {
    bounded_with(Duration::ZERO, step, work)
}

/// [`bounded`] with more time, for a call that does what else has deadlines of its own.
///
/// # Errors
/// [`TimedOut`]; the thread then stays.
pub fn bounded_with<T: Send + 'static>(
    more: Duration,
    step: String,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, TimedOut> {
    match LIMIT.load(Ordering::Relaxed) {
        0 => Ok(work()),
        limit => within(Duration::from_millis(limit).saturating_add(more), step, work),
    }
}

/// [`bounded`] with a deadline of its own.
///
/// # Errors
/// [`TimedOut`]; the thread then stays. Also if no thread can be started.
pub fn within<T: Send + 'static>(
    limit: Duration,
    step: String,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, TimedOut> {
    let result = within_any(limit, step, Box::new(|| Box::new(work())))?;
    Ok(*result.downcast().expect("this type has gone in"))
}

/// A result of any type.
type AnyResult = Box<dyn Any + Send>;

/// [`within`], compiled once for all types.
fn within_any(
    limit: Duration,
    step: String,
    work: Box<dyn FnOnce() -> AnyResult + Send>,
) -> Result<AnyResult, TimedOut> {
    let (sender, receiver) = mpsc::sync_channel(1);
    let run = move || drop(sender.send(work()));
    if let Err(error) = thread::Builder::new().name("bounded".into()).spawn(run) {
        log::error!("{step}: cannot start a thread: {error}");
        return Err(TimedOut { step, limit: Duration::ZERO });
    }
    receiver.recv_timeout(limit).map_err(|_| TimedOut { step, limit })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_that_hangs_is_left_behind() {
        let answer = within(Duration::from_mins(1), "asking".into(), || 42);
        assert_eq!(answer, Ok(42));
        let hung = within(Duration::from_millis(20), "mounting /dev/x".into(), || {
            loop {
                thread::park();
            }
        });
        let error: TimedOut = match hung {
            Err(error) => error,
            Ok(never) => never,
        };
        assert_eq!(error.step, "mounting /dev/x");
        assert!(error.to_string().starts_with("mounting /dev/x did not end within 0.02 s"), "{error}");
    }

    #[test]
    fn without_a_limit_there_is_no_thread() {
        let here = thread::current().id();
        assert_eq!(bounded("x".into(), || thread::current().id()), Ok(here));
    }
}
