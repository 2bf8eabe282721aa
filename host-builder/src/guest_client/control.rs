//! Requests that change a guest.

use super::error::QueryError;
use super::request::{ATTEMPT, PAUSE, ask, ask_status, millis};
use super::target::Target;
use image::status::{Phase, Status};
use image::wire::{Reply, Request, Until};
use std::time::{Duration, Instant};

/// Longest time that one question waits for the end of the program.
const AT_ONCE: Duration = Duration::from_secs(5);

/// Asks a guest to stop: its program receives the signal, and what still runs after the grace period (`None`: the guest's own)
/// is killed. Returns the status after the request.
///
/// # Errors
/// [`QueryError`]; [`QueryError::Refused`] if the guest does not accept the request.
pub fn stop(
    target: &Target,
    signal: i32,
    grace: Option<Duration>,
    deadline: Instant,
) -> Result<Status, QueryError> {
    let request = Request::Stop { signal, grace_ms: grace.map(millis) };
    match ask(target, &request, deadline.min(Instant::now() + ATTEMPT), deadline)? {
        Reply::Status(status) => Ok(*status),
        _ => Err(QueryError::another_question()),
    }
}

/// How far a guest that was asked to stop has come.
#[derive(Debug)]
pub enum Stopped {
    /// It no longer answers. This is its last status.
    Gone(Box<Status>),
    /// It still answers at the deadline.
    StillThere(Box<Status>),
}

/// Waits until a guest that was asked to stop no longer answers, at most until `deadline`. `status` is the one after the request.
///
/// # Errors
/// [`QueryError`] if it answers with something invalid.
pub fn wait_until_gone(target: &Target, status: Status, deadline: Instant) -> Result<Stopped, QueryError> {
    let mut last = Box::new(status);
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(Stopped::StillThere(last));
        }
        let has_exited = last.phase == Phase::Exited;
        // The guest reports how the program ended for a moment only.
        let request = if has_exited {
            Request::Status
        } else {
            Request::Wait { until: Until::Exited, timeout_ms: millis(left.min(AT_ONCE)) }
        };
        let now = Instant::now();
        match ask_status(target, &request, now + ATTEMPT, now + AT_ONCE + ATTEMPT) {
            Ok(status) => *last = status,
            Err(QueryError::NoSocket { .. } | QueryError::NotListening { .. }) => {
                return Ok(Stopped::Gone(last));
            }
            Err(error) if error.is_nonsense() => return Err(error),
            // It may be busy, or end while it answers.
            Err(_) => {}
        }
        std::thread::sleep(PAUSE);
    }
}
