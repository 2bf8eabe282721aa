//! How long `status` waits for an answer, and the exit code that an answer has.

use super::options::Status as Arguments;
use crate::guest_client;
use crate::guest_client::{QueryError, Target};
use image::status::{Exit, Outcome, Status};
use image::wire::Until;
use std::time::{Duration, Instant};

pub const DEFAULT_WAIT: Duration = Duration::from_mins(1);
pub const DEFAULT_ANSWER: Duration = Duration::from_secs(10);

/// Exit codes: ready, not ready, could not be queried.
pub const GOOD: u8 = 0;
pub const BAD: u8 = 1;
pub const UNASKED: u8 = 2;

/// Longest time for an answer, or for the answers of several guests together.
pub fn patience(args: &Arguments) -> Duration {
    args.timeout.unwrap_or(if args.wait.is_some() { DEFAULT_WAIT } else { DEFAULT_ANSWER })
}

/// The status of a guest, once `wait` is reached if it is given.
pub fn ask(
    wait: Option<Until>,
    target: &Target,
    deadline: Instant,
) -> std::result::Result<Status, QueryError> {
    match wait {
        None => guest_client::status_by(target, deadline),
        Some(until) => guest_client::wait_by(target, until, deadline),
    }
}

/// The exit code for a status.
pub fn code(status: &Status, awaited: Option<Until>) -> u8 {
    let exit = status.container.as_ref().and_then(|container| container.exit);
    let good = match awaited {
        None => status.outcome == Outcome::Ready,
        // Between two runs of a program that is started again, it has exited and the answer is
        // open.
        Some(until) => {
            let is_good = until != Until::Exited || exit.is_some_and(Exit::is_success);
            until.decided(status) == Some(true) && is_good
        }
    };
    if good { GOOD } else { BAD }
}
