//! Two pieces of work at the same time.

use std::thread;

/// Does `other` in a thread of this name while this one does `own`, and returns both results. Where no thread can be started, `other` comes
/// second.
pub fn beside<T: Send, U>(
    name: &str,
    other: impl Fn() -> T + Send + Sync,
    own: impl FnOnce() -> U,
) -> (U, T) {
    let other = &other;
    thread::scope(|scope| {
        let started = thread::Builder::new().name(name.into()).spawn_scoped(scope, other);
        let own = own();
        let other = match started {
            // A panic ends the boot, so there is always a result.
            Ok(started) => started.join().unwrap_or_else(|_| other()),
            Err(error) => {
                log::warn!("no two things at once: cannot start thread {name}: {error}");
                other()
            }
        };
        (own, other)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_are_done_at_the_same_time() {
        let (sender, receiver) = std::sync::mpsc::channel();
        let (own, other) = beside("other", || sender.send(7).is_ok(), || receiver.recv().unwrap());
        assert_eq!((own, other), (7, true));
    }
}
