//! The server on vsock: one request, one reply, and sessions, which keep their connection. It answers only the host. Every step has
//! a deadline and the number of connections is limited, so that no client can exhaust the guest's resources.

use super::connection::Pieces;
use super::session;
use crate::container::exec::Entrance;
use crate::kernel::kmsg_writer::Records;
use crate::kernel::priority;
use crate::lifecycle::StopSwitch;
use crate::locks::Lock;
use crate::status::{Board, helper};
use image::config::Control;
use image::event::{Events, LogSource, Logs, StopBy};
use image::session::Exec;
use image::status::Status;
use image::wire::{
    self, MAX_REPLY, MAX_REQUEST, Reply, Request, STOP_SIGNALS, VERSION, WireError, stop_signal_names,
};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{self, MsgFlags};
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};
use vsock::{VMADDR_CID_ANY, VMADDR_CID_HOST, VsockListener, VsockStream};

/// Connections served at the same time; more wait in the kernel's queue.
const MAX_CONNECTIONS: usize = 16;
/// Maximum number of connections that wait for something; the others are reserved for immediate answers.
const MAX_WAITING: usize = 12;
/// Timeout for receiving a request and for sending a reply.
const PATIENCE: Duration = Duration::from_secs(5);
/// Maximum wait that a request can specify.
const MAX_WAIT: Duration = Duration::from_hours(1);
/// Interval at which a waiting connection checks whether its client is still connected.
const LOOK: Duration = Duration::from_millis(500);

/// Starts answering on a port.
///
/// # Errors
/// If there is no vsock device, the port is in use, or no thread can be started.
pub fn start(port: u32, guest: Guest) -> io::Result<RawFd> {
    let listener = VsockListener::bind_with_cid_port(VMADDR_CID_ANY, port)?;
    let number = listener.as_raw_fd();
    serve(listener, guest)?;
    Ok(number)
}

/// What the server answers from, and what it may do.
#[derive(Clone)]
pub struct Guest {
    /// Which requests are accepted.
    pub control: Control,
    /// Stops the guest.
    pub stop: StopSwitch,
    /// The way into the container.
    pub entrance: Entrance,
    /// The status.
    pub board: Board,
}

/// Serves a listening socket inherited from another process, in other threads.
///
/// # Errors
/// If no thread can be started.
pub fn resume(listener: OwnedFd, guest: Guest) -> io::Result<()> {
    use std::os::fd::IntoRawFd;
    // SAFETY: the descriptor is owned, and given up here; VsockListener closes it once.
    let listener = unsafe { VsockListener::from_raw_fd(listener.into_raw_fd()) };
    serve(listener, guest)
}

/// Starts a fixed number of threads for connections, so that no connection waits for another or for a new thread.
fn serve(listener: VsockListener, guest: Guest) -> io::Result<()> {
    let service = Arc::new(Service { listener, guest, waiting: AtomicUsize::new(0) });
    let (mut are_served, mut failure) = (false, None);
    for _ in 0..MAX_CONNECTIONS {
        let lane = Lane {
            service: service.clone(),
            stream: Lock::new(Weak::new()),
            is_waiting: AtomicBool::new(false),
        };
        match helper::start("status", &service.guest.board, move || lane.serve()) {
            Ok(()) => are_served = true,
            Err(error) => {
                log::warn!("status: cannot start a thread for connections: {error}");
                failure = Some(error);
            }
        }
    }
    failure.filter(|_| !are_served).map_or(Ok(()), Err)
}

/// What the threads for connections share.
struct Service {
    listener: VsockListener,
    guest: Guest,
    /// How many connections wait for something.
    waiting: AtomicUsize,
}

/// A thread for connections. After a panic, another one continues with it.
struct Lane {
    service: Arc<Service>,
    /// The connection, which a panic leaves open.
    stream: Lock<Weak<VsockStream>>,
    /// Whether it occupies one of the slots for connections that wait.
    is_waiting: AtomicBool,
}

impl Lane {
    /// Serves one connection after the other.
    fn serve(&self) {
        self.give_up();
        // An answer takes well below a millisecond, and need not wait some of them for a busy container's time slice. (The weight of the
        // container's group gives precedence to the kernel threads for packets.) Without the privilege, answers are only later.
        priority::real_time();
        loop {
            match self.service.listener.accept() {
                Ok((stream, peer)) if is_host(peer.cid()) => {
                    let stream = Arc::new(stream);
                    *self.stream.lock() = Arc::downgrade(&stream);
                    answer(&stream, self);
                }
                Ok(_) => {}
                // For example out of descriptors: let other connections finish first.
                Err(_) => std::thread::sleep(LOOK),
            }
        }
    }

    /// Ends the connection that a panic has interrupted.
    fn give_up(&self) {
        let stream = self.stream.lock().upgrade();
        if let Some(stream) = stream {
            let _ = stream.shutdown(Shutdown::Both);
        }
        self.release();
    }

    /// Takes one of the slots for connections that wait.
    fn slot(&self) -> Option<Slot<'_>> {
        self.is_waiting.store(true, Ordering::Relaxed);
        let slot = Slot(self);
        (self.service.waiting.fetch_add(1, Ordering::Relaxed) < MAX_WAITING).then_some(slot)
    }

    fn release(&self) {
        if self.is_waiting.swap(false, Ordering::Relaxed) {
            self.service.waiting.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// One of a limited number of slots, released on drop.
struct Slot<'a>(&'a Lane);

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        self.0.release();
    }
}

/// Returns whether the client is the host; some hosts let guests reach each other.
fn is_host(cid: u32) -> bool {
    cid == VMADDR_CID_HOST
}

fn answer(stream: &VsockStream, lane: &Lane) {
    let deadline = Instant::now() + PATIENCE;
    let request = wire::read_versioned(&mut Patient { stream, deadline }, MAX_REQUEST);
    let (reply, version) = match request {
        Ok((Request::Exec(exec), version)) => match lane.service.guest.exec(stream, *exec, version) {
            Ok(()) => return,
            Err(refused) => (refused, version),
        },
        Ok((request, version)) => match reply(stream, lane, &request) {
            Ok(reply) => (reply.for_version(version), version),
            Err(Gone) => return,
        },
        Err(error) => (Reply::Refused(error.to_string()), VERSION),
    };
    send(stream, &reply, version);
}

/// Sends a reply, within the time that a client has to receive it.
pub(super) fn send(stream: &VsockStream, reply: &Reply, version: u16) {
    let mut out = Patient { stream, deadline: Instant::now() + PATIENCE };
    match wire::write_as(&mut out, reply, MAX_REPLY, version) {
        Err(error @ WireError::TooLarge { .. }) => {
            let _ = wire::write_as(&mut out, &Reply::Refused(error.to_string()), MAX_REPLY, version);
        }
        Err(error) => log::debug!("status: cannot send a reply: {error}"),
        Ok(()) => {}
    }
}

fn reply(stream: &VsockStream, lane: &Lane, request: &Request) -> Result<Reply, Gone> {
    let guest = &lane.service.guest;
    let board = &guest.board;
    let timeout_ms = match *request {
        Request::Status | Request::Stop { .. } | Request::Exec(_) => 0,
        Request::Wait { timeout_ms, .. }
        | Request::Events { timeout_ms, .. }
        | Request::Logs { timeout_ms, .. } => timeout_ms,
    };
    let slot = (timeout_ms > 0).then(|| lane.slot());
    if matches!(slot, Some(None)) {
        return Ok(Reply::Refused(format!("{MAX_WAITING} clients are waiting already; try again later")));
    }
    let wait = Wait { stream, deadline: Instant::now() + Duration::from_millis(timeout_ms).min(MAX_WAIT) };
    Ok(match *request {
        Request::Status => Reply::Status(Box::new(board.snapshot())),
        Request::Exec(_) => Reply::Refused("a session does not end with a reply".into()),
        Request::Stop { signal, grace_ms } => guest.stop(signal, grace_ms.map(Duration::from_millis)),
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

impl Guest {
    /// Starts a session, which answers, if it is allowed.
    fn exec(&self, stream: &VsockStream, exec: Exec, version: u16) -> Result<(), Reply> {
        if self.control < Control::Exec {
            return Err(Reply::Refused(
                "this guest does not accept exec and cp: gpu_initrd.control is not exec, or the initrd was built without it"
                    .into(),
            ));
        }
        let refused = |error| Reply::Refused(format!("cannot keep the connection: {error}"));
        let stream = stream.try_clone().map_err(refused)?;
        session::begin(stream, exec, version, &self.entrance, &self.board)
    }

    /// Carries out a request to stop, if it is allowed.
    fn stop(&self, signal: i32, grace: Option<Duration>) -> Reply {
        if self.control < Control::Stop {
            return Reply::Refused(
                "this guest does not accept stop: gpu_initrd.control=none, or the initrd was built with it"
                    .into(),
            );
        }
        if !STOP_SIGNALS.iter().any(|known| *known as i32 == signal) {
            let names = stop_signal_names();
            return Reply::Refused(format!("cannot send signal {signal}: expected {names}"));
        }
        // There is nothing to wait for after SIGKILL.
        let grace = if signal == libc::SIGKILL { Some(Duration::ZERO) } else { grace };
        self.stop.ask(StopBy::Host, signal, grace);
        Reply::Status(Box::new(self.board.snapshot()))
    }
}

/// The client no longer waits for its answer.
struct Gone;

/// A wait on behalf of a client, which ends when the client has disconnected.
struct Wait<'a> {
    stream: &'a VsockStream,
    deadline: Instant,
}

impl Wait<'_> {
    /// Polls until there is a result or the deadline has passed (`None`). `look` itself waits until the instant that it
    /// receives.
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

/// Returns whether the client no longer waits for an answer: it has closed the connection, or sends unexpected data. A client
/// that has closed only its sending direction still waits.
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

/// Reads or writes with one deadline for the whole message, so that a client cannot prolong it byte by byte.
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
        Pieces(self.stream).write(bytes)
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
    fn a_stop_needs_permission_and_a_signal_that_can_be_sent() {
        use crate::lifecycle::Recipient;
        let board = Board::new("k".into());
        let stop = StopSwitch::new(&board, Recipient::Program);
        let guest = |control| Guest {
            control,
            stop: stop.clone(),
            entrance: Entrance::default(),
            board: board.clone(),
        };
        let refused = |reply: Reply| matches!(reply, Reply::Refused(_));
        let hour = Some(Duration::from_hours(1));
        assert!(refused(guest(Control::None).stop(libc::SIGTERM, hour)));
        for signal in [0, -1, libc::SIGSTOP, libc::SIGCHLD, 64, 1 << 20] {
            assert!(refused(guest(Control::Stop).stop(signal, hour)), "{signal}");
        }
        assert!(stop.order().is_none(), "nothing was asked");
        assert!(!refused(guest(Control::Stop).stop(libc::SIGUSR1, hour)));
        assert_eq!(stop.order().unwrap().signal, libc::SIGUSR1);
    }

    #[test]
    fn only_the_host_is_answered() {
        let cids = [libc::VMADDR_CID_HYPERVISOR, libc::VMADDR_CID_LOCAL, 3, VMADDR_CID_ANY];
        assert!(is_host(2) && !cids.into_iter().any(is_host));
    }
}
