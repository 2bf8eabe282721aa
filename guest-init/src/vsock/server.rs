//! Answers the host over vsock: one request, one reply, read-only. Only the host is answered, every step has a
//! deadline, and the number of connections is bounded, so that no peer can cost the guest more than a little.

use crate::kernel::kmsg_writer::Records;
use crate::status::Board;
use image::event::{Events, LogSource, Logs};
use image::status::Status;
use image::wire::{self, MAX_REPLY, MAX_REQUEST, Reply, Request, WireError};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{self, MsgFlags};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use vsock::{VMADDR_CID_ANY, VMADDR_CID_HOST, VsockListener, VsockStream};

/// Connections served at the same time; more wait in the kernel's queue.
const MAX_CONNECTIONS: usize = 16;
/// Of them, those that may wait for something: the others are left to whoever wants an answer now.
const MAX_WAITING: usize = 12;
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

/// Each connection has a thread of its own from the first moment: none waits for another, and none has to be made.
fn serve(listener: &VsockListener, board: &Board) {
    let waiting = Arc::new(AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for _ in 0..MAX_CONNECTIONS {
            let spawned = std::thread::Builder::new().name("status".into()).spawn_scoped(scope, || {
                come_first();
                loop {
                    match listener.accept() {
                        Ok((stream, peer)) if is_host(peer.cid()) => {
                            answer(&stream, board, &waiting);
                        }
                        Ok(_) => {}
                        // Out of descriptors, say: let others finish first.
                        Err(_) => std::thread::sleep(LOOK),
                    }
                }
            });
            if let Err(error) = spawned {
                log::warn!("status: cannot start a thread for connections: {error}");
            }
        }
    });
}

/// Another guest, where a host lets guests reach each other, is nobody's operator.
fn is_host(cid: u32) -> bool {
    cid == VMADDR_CID_HOST
}

/// The scheduler lets a busy container finish its slice, some milliseconds, before another thread has its turn; not before one
/// of this class. (The kernel threads that carry the packets come first by the weight of the container's group.) An answer takes
/// well below a millisecond. Without the privilege the answers come later, and that is all.
fn come_first() {
    // SAFETY: the structure is integers (more of them in musl), for which zero is a value.
    let mut lowest: libc::sched_param = unsafe { std::mem::zeroed() };
    lowest.sched_priority = 1;
    // SAFETY: pthread_self is this thread, which lives, and the parameter is a whole structure of ours.
    let _ = unsafe { libc::pthread_setschedparam(libc::pthread_self(), libc::SCHED_RR, &raw const lowest) };
}

/// One of a bounded number of places, given back however its holder ends.
struct Slot(Arc<AtomicUsize>);

impl Slot {
    fn take(taken: &Arc<AtomicUsize>, most: usize) -> Option<Self> {
        let slot = Self(taken.clone());
        (taken.fetch_add(1, Ordering::Relaxed) < most).then_some(slot)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn answer(stream: &VsockStream, board: &Board, waiting: &Arc<AtomicUsize>) {
    let request = wire::read(&mut Patient { stream, deadline: Instant::now() + PATIENCE }, MAX_REQUEST);
    let reply = match request {
        Ok(request) => match reply(stream, board, waiting, &request) {
            Ok(reply) => reply,
            Err(Gone) => return,
        },
        Err(error) => Reply::Refused(error.to_string()),
    };
    let mut out = Patient { stream, deadline: Instant::now() + PATIENCE };
    match wire::write(&mut out, &reply, MAX_REPLY) {
        Err(error @ WireError::TooLarge { .. }) => {
            let _ = wire::write(&mut out, &Reply::Refused(error.to_string()), MAX_REPLY);
        }
        Err(error) => log::debug!("status: cannot send a reply: {error}"),
        Ok(()) => {}
    }
}

fn reply(
    stream: &VsockStream,
    board: &Board,
    waiting: &Arc<AtomicUsize>,
    request: &Request,
) -> Result<Reply, Gone> {
    let timeout_ms = match *request {
        Request::Status => 0,
        Request::Wait { timeout_ms, .. }
        | Request::Events { timeout_ms, .. }
        | Request::Logs { timeout_ms, .. } => timeout_ms,
    };
    let slot = (timeout_ms > 0).then(|| Slot::take(waiting, MAX_WAITING));
    if matches!(slot, Some(None)) {
        return Ok(Reply::Refused(format!("{MAX_WAITING} clients are waiting already; try again later")));
    }
    let wait = Wait { stream, deadline: Instant::now() + Duration::from_millis(timeout_ms).min(MAX_WAIT) };
    Ok(match *request {
        Request::Status => Reply::Status(Box::new(board.snapshot())),
        Request::Wait { until, .. } => {
            let known = |status: &Status| until.decided(status).is_some();
            let status = wait.look(|moment| Some(board.wait(known, moment)).filter(known))?;
            Reply::Status(Box::new(status.unwrap_or_else(|| board.snapshot())))
        }
        Request::Events { from, .. } => {
            let some = |events: &Events| !events.events.is_empty();
            let events = wait.look(|moment| Some(board.events(from, moment)).filter(some))?;
            Reply::Events(events.unwrap_or_else(|| board.events(from, Instant::now())))
        }
        Request::Logs { source, from, .. } => {
            let mut kernel = (source == LogSource::Kernel).then(|| Records::from(from));
            let mut lines = |moment| match &mut kernel {
                Some(log) => log.read(moment),
                None => board.lines(from, moment),
            };
            let some = |logs: &Logs| !logs.lines.is_empty();
            let logs = wait.look(|moment| Some(lines(moment)).filter(some))?;
            Reply::Logs(logs.unwrap_or_else(|| lines(Instant::now())))
        }
    })
}

/// The peer does not wait for its answer any more.
struct Gone;

/// A wait for something that a peer asked for, given up when the peer has gone.
struct Wait<'a> {
    stream: &'a VsockStream,
    deadline: Instant,
}

impl Wait<'_> {
    /// Looks until there is something or the time is over (`None`). `look` waits by itself, until the moment that it is
    /// given.
    fn look<T>(&self, mut look: impl FnMut(Instant) -> Option<T>) -> Result<Option<T>, Gone> {
        loop {
            let found = look(self.deadline.min(Instant::now() + LOOK));
            if found.is_some() || Instant::now() >= self.deadline {
                return Ok(found);
            }
            if has_gone(self.stream) {
                return Err(Gone);
            }
        }
    }
}

/// Whether nobody waits for an answer any more: the peer has closed the connection, or says what the protocol does not know. One that has closed
/// only its own direction has said all that it will, and waits.
fn has_gone(stream: &(impl AsFd + AsRawFd)) -> bool {
    let mut fds = [PollFd::new(stream.as_fd(), PollFlags::POLLIN)];
    if !poll(&mut fds, PollTimeout::ZERO).is_ok_and(|count| count > 0) {
        return false;
    }
    match socket::recv(stream.as_raw_fd(), &mut [0], MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT) {
        Ok(0) => {
            socket::send(stream.as_raw_fd(), &[], MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT).is_err()
        }
        Err(Errno::EAGAIN | Errno::EINTR) => false,
        Ok(_) | Err(_) => true,
    }
}

/// Reads, or writes, with one deadline for everything, so that a peer cannot stretch it byte by byte.
struct Patient<'a> {
    stream: &'a VsockStream,
    deadline: Instant,
}

impl Patient<'_> {
    fn left(&self) -> io::Result<Duration> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(left) }
    }
}

impl Read for Patient<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.stream.set_read_timeout(Some(self.left()?))?;
        let mut stream = self.stream;
        stream.read(buffer)
    }
}

impl Write for Patient<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stream.set_write_timeout(Some(self.left()?))?;
        let mut stream = self.stream;
        stream.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_said_all_still_waits() {
        use std::net::Shutdown;
        use std::os::unix::net::UnixStream;
        let (ours, theirs) = UnixStream::pair().unwrap();
        assert!(!has_gone(&ours));
        theirs.shutdown(Shutdown::Write).unwrap();
        assert!(!has_gone(&ours));
        drop(theirs);
        assert!(has_gone(&ours));
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        theirs.write_all(b"x").unwrap();
        assert!(has_gone(&ours));
    }

    #[test]
    fn only_the_host_is_answered() {
        let cids = [libc::VMADDR_CID_HYPERVISOR, libc::VMADDR_CID_LOCAL, 3, VMADDR_CID_ANY];
        assert!(is_host(2) && !cids.into_iter().any(is_host));
    }
}
