//! Answers the host over vsock: one request, one reply, read-only. Only the host is answered, every step has a
//! deadline, and the number of connections is bounded, so that no peer can cost the guest more than a little.

use crate::report::Board;
use image::status::{Outcome, Phase, Status};
use image::wire::{self, MAX_REPLY, MAX_REQUEST, Reply, Request, Until, WireError};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use vsock::{VMADDR_CID_ANY, VMADDR_CID_HOST, VsockListener, VsockStream};

/// Connections served at the same time; more are closed at once.
const MAX_CONNECTIONS: usize = 16;
/// A request must have come, and a reply have gone, within this time.
const PATIENCE: Duration = Duration::from_secs(5);
/// Longest wait that a request can ask for.
const MAX_WAIT: Duration = Duration::from_hours(1);
/// How often a waiting connection looks whether its peer is still there.
const LOOK: Duration = Duration::from_millis(500);

/// Starts answering on a port.
///
/// # Errors
/// When there is no vsock device, or the port is taken.
pub fn start(port: u32, board: &Board) -> io::Result<RawFd> {
    let listener = VsockListener::bind_with_cid_port(VMADDR_CID_ANY, port)?;
    let number = listener.as_raw_fd();
    let board = board.clone();
    std::thread::Builder::new().name("status".into()).spawn(move || serve(&listener, &board))?;
    Ok(number)
}

/// Answers on a listening socket that another process left, until the end.
pub fn resume(listener: OwnedFd, board: &Board) {
    use std::os::fd::IntoRawFd;
    // SAFETY: the descriptor is owned, and given up here; VsockListener closes it once.
    let listener = unsafe { VsockListener::from_raw_fd(listener.into_raw_fd()) };
    serve(&listener, board);
}

fn serve(listener: &VsockListener, board: &Board) {
    let active = Arc::new(AtomicUsize::new(0));
    loop {
        let Ok((stream, peer)) = listener.accept() else {
            // Out of descriptors, say: let others finish first.
            std::thread::sleep(Duration::from_millis(50));
            continue;
        };
        if peer.cid() != VMADDR_CID_HOST || active.load(Ordering::Relaxed) >= MAX_CONNECTIONS {
            continue;
        }
        active.fetch_add(1, Ordering::Relaxed);
        let (board, slot) = (board.clone(), Slot(active.clone()));
        let spawned = std::thread::Builder::new().name("connection".into()).spawn(move || {
            let _slot = slot;
            answer(stream, &board);
        });
        if let Err(error) = spawned {
            log::warn!("status: no thread for a connection: {error}");
        }
    }
}

/// Gives the place of a connection back, however it ends.
struct Slot(Arc<AtomicUsize>);

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn answer(mut stream: VsockStream, board: &Board) {
    let request =
        wire::read(&mut Patient { stream: &stream, deadline: Instant::now() + PATIENCE }, MAX_REQUEST);
    let reply = match request {
        Ok(Request::Status) => Reply::Status(Box::new(board.snapshot())),
        Ok(Request::Wait { until, timeout_ms }) => match wait(&stream, board, until, timeout_ms) {
            Some(status) => Reply::Status(Box::new(status)),
            None => return,
        },
        Err(error) => Reply::Refused(error.to_string()),
    };
    let _ = stream.set_write_timeout(Some(PATIENCE));
    match wire::write(&mut stream, &reply, MAX_REPLY) {
        Err(error @ WireError::TooLarge { .. }) => {
            let _ = wire::write(&mut stream, &Reply::Refused(error.to_string()), MAX_REPLY);
        }
        Err(error) => log::debug!("status: a reply could not be sent: {error}"),
        Ok(()) => {}
    }
}

/// `None` when the peer has gone.
fn wait(stream: &VsockStream, board: &Board, until: Until, timeout_ms: u64) -> Option<Status> {
    let deadline = Instant::now() + Duration::from_millis(timeout_ms).min(MAX_WAIT);
    loop {
        let status = board.wait(|status| known(status, until), deadline.min(Instant::now() + LOOK));
        if known(&status, until) || Instant::now() >= deadline {
            return Some(status);
        }
        // The protocol has nothing more to say to us: what can be read is the end, or garbage.
        let mut fds = [PollFd::new(stream.as_fd(), PollFlags::POLLIN)];
        if poll(&mut fds, PollTimeout::ZERO).is_ok_and(|count| count > 0) {
            return None;
        }
    }
}

/// Whether what is waited for has come, or can come no more.
fn known(status: &Status, until: Until) -> bool {
    let ended = status.phase == Phase::Exited || status.outcome == Outcome::Failed;
    match until {
        Until::Ready => status.outcome != Outcome::Pending || ended,
        Until::Exited => ended,
    }
}

/// Reads with one deadline for everything, so that a peer cannot stretch it byte by byte.
struct Patient<'a> {
    stream: &'a VsockStream,
    deadline: Instant,
}

impl Read for Patient<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        self.stream.set_read_timeout(Some(left))?;
        let mut stream = self.stream;
        stream.read(buffer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_ends_when_the_answer_is_known_to_be_no() {
        let mut status = Board::new("k".into()).snapshot();
        assert!(!known(&status, Until::Ready));
        status.outcome = Outcome::Failed;
        assert!(known(&status, Until::Ready) && known(&status, Until::Exited));
        status.outcome = Outcome::Ready;
        assert!(known(&status, Until::Ready) && !known(&status, Until::Exited));
        status.phase = Phase::Exited;
        assert!(known(&status, Until::Exited));
    }
}
