//! Follows the events or log lines of a guest with repeated requests, each from where the last
//! answer ended.

use super::error::{QueryError, Step};
use super::request::{ATTEMPT, PAUSE, ask, millis};
use super::target::Target;
use image::event::{Event, LogLine, LogSource};
use image::wire::{Reply, Request};
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

/// How long one request waits in the guest.
const WAIT: Duration = Duration::from_secs(10);
/// How much longer the answer may take.
const SLACK: Duration = Duration::from_secs(5);
/// Number of retries before a guest that has answered counts as gone.
const ATTEMPTS: u32 = 3;
/// Time between two queries of a guest that has too many waiting clients.
const CROWDED: Duration = Duration::from_secs(1);

/// Data with sequence numbers.
pub trait Followed: Sized {
    /// What is requested.
    type Of: Copy;
    /// The request for everything from a number on.
    fn request(of: Self::Of, from: u64, timeout_ms: u64) -> Request;
    /// The items, the next number, and the number of lost items; `None` if the answer is to another
    /// request.
    fn take(reply: Reply) -> Option<(Vec<Self>, u64, u64)>;
    /// Its number.
    fn sequence(&self) -> u64;
}

impl Followed for Event {
    type Of = ();
    fn request((): (), from: u64, timeout_ms: u64) -> Request {
        Request::Events { from, timeout_ms }
    }
    fn take(reply: Reply) -> Option<(Vec<Self>, u64, u64)> {
        let Reply::Events(part) = reply else { return None };
        Some((part.events, part.next, part.lost))
    }
    fn sequence(&self) -> u64 {
        self.sequence
    }
}

impl Followed for LogLine {
    type Of = LogSource;
    fn request(source: LogSource, from: u64, timeout_ms: u64) -> Request {
        Request::Logs { source, from, timeout_ms }
    }
    fn take(reply: Reply) -> Option<(Vec<Self>, u64, u64)> {
        let Reply::Logs(part) = reply else { return None };
        Some((part.lines, part.next, part.lost))
    }
    fn sequence(&self) -> u64 {
        self.sequence
    }
}

/// The content of one answer.
#[derive(Debug)]
pub struct Part<T> {
    /// In their order.
    pub items: Vec<T>,
    /// Number of earlier items that the guest no longer keeps.
    pub lost: u64,
}

impl<T: Followed> Part<T> {
    /// Checks a reply to a request from number `from` on. Returns the next number as well.
    pub(super) fn of(reply: Reply, from: u64) -> Result<(Self, u64), QueryError> {
        let (items, next, lost) = T::take(reply).ok_or_else(QueryError::another_question)?;
        let mut least = from;
        for item in &items {
            if item.sequence() < least {
                let found = item.sequence();
                return Err(QueryError::Malformed {
                    what: format!("expected number {least} or more, found {found}"),
                });
            }
            least = item.sequence();
        }
        if !items.is_empty() && next <= least {
            let what = format!("expected a next number of at least {least}, found {next}");
            return Err(QueryError::Malformed { what });
        }
        Ok((Self { items, lost }, next))
    }
}

/// Why following has ended.
#[derive(Debug)]
pub enum End {
    /// The reader has closed the output.
    Enough,
    /// The guest no longer answers.
    Gone(QueryError),
}

/// The next number, and how to request it.
struct Position<'a, T: Followed> {
    target: &'a Target,
    of: T::Of,
    from: u64,
    /// Too many other clients wait in the guest, so it is queried without waiting.
    crowded: bool,
}

impl<T: Followed> Position<'_, T> {
    fn read(&mut self, wait: Duration, deadline: Option<Instant>) -> Result<Part<T>, QueryError> {
        let wait = if self.crowded { Duration::ZERO } else { wait };
        let now = Instant::now();
        let end = now + wait + SLACK;
        let end = deadline.map_or(end, |deadline| deadline.min(end));
        let request = T::request(self.of, self.from, millis(wait));
        let reply = ask(self.target, &request, end.min(now + ATTEMPT), end)?;
        let (part, next) = Part::of(reply, self.from)?;
        // A guest that was booted again counts from the start.
        self.from = if part.items.is_empty() && next < self.from { 0 } else { next.max(self.from) };
        Ok(part)
    }

    /// The number of the next item, which a guest returns for a request far ahead. It does not know
    /// this for the kernel log, which ends when there is nothing more.
    fn end(&self, deadline: Instant) -> Result<u64, QueryError> {
        let request = T::request(self.of, u64::MAX, 0);
        let handshake = deadline.min(Instant::now() + ATTEMPT);
        let (_, next, _) = T::take(ask(self.target, &request, handshake, deadline)?)
            .ok_or_else(QueryError::another_question)?;
        Ok(next)
    }
}

/// Passes everything there is and everything new to `each`, until the guest is gone. A guest that
/// does not answer yet has `timeout` to start. Returns an error if the guest was never reached, or
/// if its answer is invalid.
pub fn follow<T: Followed>(
    target: &Target,
    of: T::Of,
    timeout: Duration,
    mut each: impl FnMut(Part<T>) -> ControlFlow<()>,
) -> Result<End, QueryError> {
    let mut position = Position { target, of, from: 0, crowded: false };
    let begin = Instant::now();
    let mut answered = false;
    let mut failures = 0;
    loop {
        let start = Instant::now();
        let first = (!answered).then_some(begin + timeout);
        // The first answer is wanted at once: it says that the guest is there.
        let wait = if answered { WAIT } else { Duration::ZERO };
        match position.read(wait, first) {
            Ok(part) => {
                let is_early = part.items.is_empty() && start.elapsed() < WAIT && answered;
                (answered, failures) = (true, 0);
                if each(part).is_break() {
                    return Ok(End::Enough);
                }
                if is_early {
                    std::thread::sleep(if position.crowded { CROWDED } else { PAUSE });
                }
            }
            Err(QueryError::Refused { .. }) if answered && !position.crowded => position.crowded = true,
            Err(error) if !answered => {
                if !error.is_passing() || Instant::now() + PAUSE >= begin + timeout {
                    return Err(error);
                }
                std::thread::sleep(PAUSE);
            }
            Err(error) if error.is_nonsense() => return Err(error),
            Err(error) => {
                failures += 1;
                let is_over = matches!(error, QueryError::TimedOut { step: Step::Reply, .. });
                if is_over || failures == ATTEMPTS {
                    return Ok(End::Gone(error));
                }
                std::thread::sleep(PAUSE);
            }
        }
    }
}

/// Passes everything there is now to `each`. `timeout` covers all of it; with `wait`, also the
/// start of a guest that does not answer yet.
pub fn all<T: Followed>(
    target: &Target,
    of: T::Of,
    (wait, timeout): (bool, Duration),
    mut each: impl FnMut(Part<T>) -> ControlFlow<()>,
) -> Result<(), QueryError> {
    let deadline = Instant::now() + timeout;
    let mut position = Position { target, of, from: 0, crowded: false };
    let end = loop {
        match position.end(deadline) {
            Err(error) if wait && error.is_passing() && Instant::now() + PAUSE < deadline => {
                std::thread::sleep(PAUSE);
            }
            result => break result?,
        }
    };
    loop {
        let start = Instant::now();
        let mut part: Part<T> = match position.read(Duration::ZERO, Some(deadline)) {
            // The guest has answered so far; it is our time that is over.
            Err(QueryError::TimedOut { .. })
                if position.from > 0 && deadline.saturating_duration_since(start) < ATTEMPT =>
            {
                return Err(QueryError::Endless { after: timeout });
            }
            result => result?,
        };
        let is_end = part.items.is_empty() || position.from >= end;
        // What has come since is for the next request.
        part.items.retain(|item| item.sequence() < end);
        if each(part).is_break() || is_end {
            return Ok(());
        }
        if Instant::now() >= deadline {
            return Err(QueryError::Endless { after: timeout });
        }
    }
}
