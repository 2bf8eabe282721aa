//! Asks a guest how it is. The guest is not trusted: every wait has a deadline, every reply a bound, and every defect
//! of a reply an error of its own.

pub mod clean;
mod connection;
mod error;
mod target;
#[cfg(test)]
mod tests;
pub mod view;

pub use error::{QueryError, Step};
pub use target::Target;

use connection::Connection;
use image::status::{Phase, Status};
use image::wire::{self, MAX_REPLY, MAX_REQUEST, Reply, Request, Until};
use std::time::{Duration, Instant};

/// Longest wait for `CONNECT` to be answered while the whole may take longer: a backend whose guest has no vsock driver
/// yet may swallow a connection, and only a new one will get through.
const ATTEMPT: Duration = Duration::from_secs(2);
/// Between two attempts.
const PAUSE: Duration = Duration::from_millis(200);
/// The guest's deadline is so much before ours, so that its last word still arrives.
const MARGIN: Duration = Duration::from_millis(500);

/// The status now, `timeout` at most from connecting to the last byte.
pub fn status(target: &Target, timeout: Duration) -> Result<Status, QueryError> {
    let deadline = Instant::now() + timeout;
    ask(target, &Request::Status, deadline, deadline)
}

/// The status once `until` is reached or cannot be reached any more, or as it is when `timeout` is nearly over. While
/// there is no socket, or nobody listens, it tries again.
pub fn wait(target: &Target, until: Until, timeout: Duration) -> Result<Status, QueryError> {
    let start = Instant::now();
    let deadline = start + timeout;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout_ms = left.saturating_sub(MARGIN.min(left / 4)).as_millis();
        let request = Request::Wait { until, timeout_ms: u64::try_from(timeout_ms).unwrap_or(u64::MAX) };
        let handshake = deadline.min(Instant::now() + ATTEMPT);
        let over = || Instant::now() + PAUSE >= deadline;
        match ask(target, &request, handshake, deadline) {
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

/// Whether the container's program has ended.
pub fn is_exited(status: &Status) -> bool {
    status.phase == Phase::Exited
        || status.container.as_ref().is_some_and(|container| container.exit.is_some())
}

/// One request, one reply.
fn ask(
    target: &Target,
    request: &Request,
    handshake: Instant,
    deadline: Instant,
) -> Result<Status, QueryError> {
    let mut connection = Connection::open(target, handshake)?;
    connection.set_deadline(deadline);
    let allowed = deadline.saturating_duration_since(Instant::now());
    match wire::write(&mut connection, request, MAX_REQUEST)
        .map_err(|error| QueryError::wire(Step::Request, allowed, error))
    {
        // Closed before it had read us, but perhaps not before it had said why.
        Ok(()) | Err(QueryError::Closed { .. }) => {}
        Err(error) => return Err(error),
    }
    let reply = wire::read(&mut connection, MAX_REPLY)
        .map_err(|error| QueryError::wire(Step::Reply, allowed, error))?;
    match reply {
        Reply::Status(status) => Ok(*status),
        Reply::Refused(reason) => Err(QueryError::Refused { reason: clean::clean(&reason, 200) }),
        Reply::Events(_) | Reply::Logs(_) => {
            Err(QueryError::Malformed { what: "the answer to another question".into() })
        }
    }
}
