//! Requests for the status: now, or once something has happened.

use super::connection::Connection;
use super::error::{QueryError, Step};
use super::spoken;
use super::target::Target;
use crate::common::clean::clean;
use image::event::Happening;
use image::status::Status;
use image::wire::{self, MAX_REPLY, MAX_REQUEST, Reply, Request, Until, VERSION};
use std::time::{Duration, Instant};

/// Longest wait for `CONNECT` to be answered while the whole may take longer: a backend whose guest
/// has no vsock driver yet may swallow a connection, and only a new one will get through.
pub const ATTEMPT: Duration = Duration::from_secs(2);
/// Between two attempts.
pub const PAUSE: Duration = Duration::from_millis(200);
/// The guest's deadline is this much before ours, so that its last answer still arrives.
const MARGIN: Duration = Duration::from_millis(500);

/// The status now, `timeout` at most from connecting to the last byte.
pub fn status(target: &Target, timeout: Duration) -> Result<Status, QueryError> {
    status_by(target, Instant::now() + timeout)
}

/// The status now, its last byte at `deadline` at the latest.
pub fn status_by(target: &Target, deadline: Instant) -> Result<Status, QueryError> {
    ask_status(target, &Request::Status, deadline, deadline)
}

/// The status once `until` is reached or can no longer be reached, or the current one shortly before
/// `timeout`. Retries while there is no socket or no listener.
pub fn wait(target: &Target, until: Until, timeout: Duration) -> Result<Status, QueryError> {
    wait_by(target, until, Instant::now() + timeout)
}

/// [`wait`] with a deadline.
pub fn wait_by(target: &Target, until: Until, deadline: Instant) -> Result<Status, QueryError> {
    let start = Instant::now();
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout_ms = millis(left.saturating_sub(MARGIN.min(left / 4)));
        let request = Request::Wait { until, timeout_ms };
        let handshake = deadline.min(Instant::now() + ATTEMPT);
        let over = || Instant::now() + PAUSE >= deadline;
        match ask_status(target, &request, handshake, deadline) {
            Ok(status) if until.decided(&status).is_some() || over() => return Ok(status),
            Err(last) if last.is_passing() && over() => {
                return Err(QueryError::GaveUp { after: start.elapsed(), last: Box::new(last) });
            }
            Err(error) if !error.is_passing() => return Err(error),
            // A guest that answers early is asked again, but not in a tight loop.
            Ok(_) | Err(_) => std::thread::sleep(PAUSE),
        }
    }
}

/// Waits for the next event after the newest of `status`, for at most `longest`. Callers request the
/// status again in any case, so it does not return whether there was one.
pub fn wait_for_change(target: &Target, status: &Status, longest: Duration) {
    let end = Instant::now() + longest;
    let request = Request::Events { from: status.events.saturating_add(1), timeout_ms: millis(longest) };
    let reply = ask(target, &request, end + ATTEMPT, end + ATTEMPT);
    let left = end.saturating_duration_since(Instant::now());
    let is_news = matches!(reply, Ok(Reply::Events(events)) if !events.events.is_empty());
    // A guest cannot make us ask in a tight loop.
    std::thread::sleep(if is_news { PAUSE } else { left });
}

/// Whether the boot has an outcome, or the program has ended, by what an event says.
pub fn is_decisive(what: &Happening) -> bool {
    matches!(what, Happening::Exited(_) | Happening::Outcome(_))
}

/// Milliseconds, as requests have them.
pub fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// One request, whose reply is a status.
pub fn ask_status(
    target: &Target,
    request: &Request,
    handshake: Instant,
    deadline: Instant,
) -> Result<Status, QueryError> {
    match ask(target, request, handshake, deadline)? {
        Reply::Status(status) => Ok(*status),
        _ => Err(QueryError::another_question()),
    }
}

/// One request, one reply. A guest of an older release is asked again in the version that it speaks,
/// and from then on in that version.
pub fn ask(
    target: &Target,
    request: &Request,
    handshake: Instant,
    deadline: Instant,
) -> Result<Reply, QueryError> {
    let reply = match ask_known(target, request, handshake, deadline)? {
        Some(reply) => reply,
        None => ask_unknown(target, request, handshake, deadline)?,
    };
    match reply {
        Reply::Refused(reason) => Err(QueryError::Refused { reason: clean(&reason, 200) }),
        reply => Ok(reply),
    }
}

/// One request in the version that is remembered for the guest. `None` if none is, if that version
/// does not have the request, or if the guest no longer speaks it.
fn ask_known(
    target: &Target,
    request: &Request,
    handshake: Instant,
    deadline: Instant,
) -> Result<Option<Reply>, QueryError> {
    let Some(version) = spoken::version_of(target).filter(|version| request.since() <= *version) else {
        return Ok(None);
    };
    match ask_in(version, target, request, handshake, deadline) {
        Ok((reply, found)) => Ok((found == version).then_some(reply)),
        Err(QueryError::OtherVersion { .. }) => Ok(None),
        Err(error) => {
            spoken::forget(target);
            Err(error)
        }
    }
}

/// One request to a guest whose version is not known: in the newest version, then in the guest's.
fn ask_unknown(
    target: &Target,
    request: &Request,
    handshake: Instant,
    deadline: Instant,
) -> Result<Reply, QueryError> {
    spoken::forget(target);
    let (reply, version) = ask_in(VERSION, target, request, handshake, deadline)?;
    if version == VERSION || !matches!(reply, Reply::Refused(_)) {
        return Ok(reply);
    }
    spoken::remember(target, version);
    if version < request.since() {
        return Err(QueryError::UnknownRequest { name: request.name(), found: version });
    }
    let handshake = deadline.min(Instant::now() + ATTEMPT);
    ask_in(version, target, request, handshake, deadline).map(|(reply, _)| reply)
}

/// One request in a version of the protocol. Returns the reply and its version.
fn ask_in(
    version: u16,
    target: &Target,
    request: &Request,
    handshake: Instant,
    deadline: Instant,
) -> Result<(Reply, u16), QueryError> {
    let mut connection = Connection::open(target, handshake)?;
    connection.set_deadline(deadline);
    let allowed = deadline.saturating_duration_since(Instant::now());
    match wire::write_as(&mut connection, request, MAX_REQUEST, version)
        .map_err(|error| QueryError::wire(Step::Request, allowed, error))
    {
        // Closed before it had read us, but perhaps not before it had said why.
        Ok(()) | Err(QueryError::Closed { .. }) => {}
        Err(error) => return Err(error),
    }
    connection.receive(allowed)
}

impl Connection {
    /// One reply, of bounded size, and its version.
    pub fn receive(&mut self, allowed: Duration) -> Result<(Reply, u16), QueryError> {
        wire::read_versioned(self, MAX_REPLY).map_err(|error| QueryError::wire(Step::Reply, allowed, error))
    }
}
