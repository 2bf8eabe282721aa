//! Limits for connections of guests that push events: a limit per guest and one for all. Each guest
//! gets its first connection before any guest gets a second one.

use crate::common::clean::clean;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Most connections of one guest.
const OF_ONE: usize = 4;
/// Most connected guests.
const OF_ALL: usize = 1024;
/// Most connections of all guests beyond the first one of each guest.
const SECOND: usize = 256;
/// Shortest time between two warnings.
const QUIET: Duration = Duration::from_mins(1);

/// The open connections by guest.
#[derive(Default)]
pub struct Slots(Mutex<Taken>);

#[derive(Default)]
struct Taken {
    by: BTreeMap<String, usize>,
    warned: Option<Instant>,
}

/// A counted connection, released on drop.
pub struct Slot<'a> {
    slots: &'a Slots,
    guest: String,
}

/// Why a connection is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Full {
    /// The guest has the most connections that one guest may have.
    Own,
    /// The guest has a connection, and the limit of further connections is reached.
    Second,
    /// The limit of guests is reached.
    All,
}

impl fmt::Display for Full {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Own => write!(out, "it has {OF_ONE} open connections, the limit for one guest"),
            Self::Second => write!(
                out,
                "it has an open connection, and {SECOND} connections beyond the first of each guest are open, the limit for all guests"
            ),
            Self::All => write!(out, "{OF_ALL} guests are connected, the limit"),
        }
    }
}

impl Slots {
    /// Counts a connection of `guest`, or refuses it.
    pub fn take(&self, guest: &str) -> Result<Slot<'_>, Full> {
        let mut taken = self.lock();
        let own = taken.by.get(guest).copied().unwrap_or(0);
        let firsts = taken.by.len();
        let second = taken.by.values().sum::<usize>() - firsts;
        if own >= OF_ONE {
            return Err(Full::Own);
        }
        // The second of one guest never takes the place of another's first.
        if own == 0 && firsts >= OF_ALL {
            return Err(Full::All);
        }
        if own > 0 && second >= SECOND {
            return Err(Full::Second);
        }
        *taken.by.entry(guest.to_owned()).or_default() += 1;
        Ok(Slot { slots: self, guest: guest.to_owned() })
    }

    /// The warning for a refused connection, unless there was a warning recently.
    pub fn warning(&self, guest: &str, why: Full) -> Option<String> {
        let mut taken = self.lock();
        if taken.warned.is_some_and(|time| time.elapsed() < QUIET) {
            return None;
        }
        taken.warned = Some(Instant::now());
        let guest = clean(guest, 400);
        Some(format!("warning: refused a connection of {guest}: {why} (this warning is shown once a minute)"))
    }

    fn lock(&self) -> MutexGuard<'_, Taken> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        let mut taken = self.slots.lock();
        if let Some(count) = taken.by.get_mut(&self.guest) {
            *count -= 1;
            if *count == 0 {
                taken.by.remove(&self.guest);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_guest_cannot_take_all_places() {
        let slots = Slots::default();
        let held: Vec<_> = (0..OF_ONE).map(|_| slots.take("a").ok().unwrap()).collect();
        assert_eq!(slots.take("a").err(), Some(Full::Own));
        assert!(slots.take("b").is_ok());
        drop(held);
        assert!(slots.take("a").is_ok());
        assert!(slots.lock().by.is_empty());
    }

    #[test]
    fn every_guest_finds_a_place_however_many_the_others_want() {
        let slots = Slots::default();
        let mut held = Vec::new();
        let mut refused = 0;
        for guest in 0..OF_ALL {
            for number in 0..=OF_ONE {
                match slots.take(&guest.to_string()) {
                    Ok(place) => held.push(place),
                    Err(why) => {
                        assert!(number > 0, "{guest}: {why:?}");
                        refused += 1;
                    }
                }
            }
        }
        assert_eq!(held.len(), OF_ALL + SECOND);
        assert!(refused > 0);
        assert_eq!(slots.take("one more").err(), Some(Full::All));
    }

    #[test]
    fn one_warning_stands_for_many_attempts() {
        let slots = Slots::default();
        let text = slots.warning("vsock:3\x1b[2J", Full::All).unwrap();
        assert!(text.contains("connection of vsock:3") && text.contains("1024 guests"), "{text:?}");
        assert_eq!(slots.warning("vsock:3", Full::All), None);
        assert_eq!(slots.warning("vsock:4", Full::Own), None);
    }
}
