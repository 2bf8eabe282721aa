//! The protocol versions of guests of older releases, remembered, so that only the first request
//! to such a guest takes two connections.
//!
//! A guest of a newer release also answers requests in an older version, without what that version
//! does not have. So a version is remembered for a limited time, and only while requests succeed.

use super::target::Target;
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long a version is remembered. A guest that has been replaced by a newer one is asked in the
/// newest version after this time at the latest.
const REMEMBERED: Duration = Duration::from_mins(1);
/// Most targets that are remembered. Beyond that, all are forgotten, which costs each one more
/// connection.
const MOST: usize = 4096;

static SPOKEN: Mutex<Option<HashMap<Target, Spoken>>> = Mutex::new(None);

#[derive(Clone, Copy)]
struct Spoken {
    version: u16,
    until: Instant,
}

fn lock() -> MutexGuard<'static, Option<HashMap<Target, Spoken>>> {
    SPOKEN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Returns the version of this guest, if it is remembered.
pub fn version_of(target: &Target) -> Option<u16> {
    version_at(target, Instant::now())
}

fn version_at(target: &Target, now: Instant) -> Option<u16> {
    let spoken = lock().as_ref()?.get(target).copied()?;
    (now < spoken.until).then_some(spoken.version)
}

/// Remembers the version of an older guest.
pub fn remember(target: &Target, version: u16) {
    let mut known = lock();
    let known = known.get_or_insert_default();
    if known.len() >= MOST {
        known.clear();
    }
    known.insert(target.clone(), Spoken { version, until: Instant::now() + REMEMBERED });
}

/// Forgets the version of a guest, which may be another one now.
pub fn forget(target: &Target) {
    if let Some(known) = lock().as_mut() {
        known.remove(target);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_is_remembered_for_a_minute() {
        let target: Target = "unix:/no/such/guest".parse().unwrap();
        assert_eq!(version_of(&target), None);
        remember(&target, 7);
        assert_eq!(version_of(&target), Some(7));
        assert_eq!(version_at(&target, Instant::now() + REMEMBERED), None);
        forget(&target);
        assert_eq!(version_of(&target), None);
    }
}
