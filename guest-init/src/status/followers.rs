//! Followers that receive every event. The guest does not shut down before they have sent the last one.

use crate::locks::Lock;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The followers of a board.
#[derive(Default)]
pub(super) struct Followers(Lock<Vec<Arc<AtomicU64>>>);

/// One follower, until it is dropped.
pub struct Follower(Arc<AtomicU64>);

impl Followers {
    pub(super) fn add(&self) -> Follower {
        let next = Arc::new(AtomicU64::new(0));
        self.0.lock().push(Arc::clone(&next));
        Follower(next)
    }

    /// Returns whether all have sent the event with this number.
    pub(super) fn have_sent(&self, last: u64) -> bool {
        let followers = self.0.lock();
        followers.iter().all(|next| next.load(Ordering::Relaxed) > last)
    }
}

impl Follower {
    /// Records that all events before `next` were sent.
    pub fn has_sent(&self, next: u64) {
        self.0.store(next, Ordering::Relaxed);
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.has_sent(u64::MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slowest_decides_and_one_that_is_gone_does_not() {
        let followers = Followers::default();
        assert!(followers.have_sent(7));
        let (one, other) = (followers.add(), followers.add());
        one.has_sent(8);
        assert!(!followers.have_sent(7));
        other.has_sent(7);
        assert!(followers.have_sent(6) && !followers.have_sent(7));
        drop(other);
        assert!(followers.have_sent(7) && !followers.have_sent(8));
    }
}
