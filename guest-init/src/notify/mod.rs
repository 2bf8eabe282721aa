//! Tells the host without being asked: our own events on a connection that the guest opens, and systemd's notifications for
//! supervisors that know them.

mod smbios;
mod systemd;

use crate::report::Board;
use image::config::Config;
use image::wire::{self, MAX_REPLY, Reply};
use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, bind, socket};
use std::io;
use std::ops::Range;
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use vsock::{VMADDR_CID_ANY, VMADDR_CID_HOST, VsockAddr, VsockStream};

/// Between two attempts to connect.
const PAUSE: Duration = Duration::from_secs(1);
/// A notification must have gone within this time.
const PATIENCE: Duration = Duration::from_secs(5);
/// Longest wait for the last events to be sent.
const FINISH: Duration = Duration::from_secs(2);
/// Ports that are not for everybody.
const PRIVILEGED: Range<u32> = 512..1024;
/// Longest sleep of a thread that has nothing to send.
const LOOK: Duration = Duration::from_secs(10);

/// How many are told, and how far the slowest of them is known to be: the number of its next event.
static LISTENERS: AtomicUsize = AtomicUsize::new(0);
static SENT: [AtomicU64; 2] = [AtomicU64::new(u64::MAX), AtomicU64::new(u64::MAX)];

/// Starts telling those who want to be told.
pub fn start(config: &Config, board: &Board) {
    if let Some(port) = config.notify {
        follow("push", board, move |board, sent| push(port, 0, board, sent));
    }
    if let Some(socket) = config.notify_socket.or_else(smbios::notify_socket) {
        follow("notify", board, move |board, sent| systemd::tell(socket, board, sent));
    }
}

/// Goes on pushing events in another process, to which PID 1 has left a status. (The supervisor hears the rest from the
/// image's own init, which knows systemd's notifications or does not.)
pub fn resume(port: u32, board: &Board) {
    let from = board.snapshot().events + 1;
    follow("push", board, move |board, sent| push(port, from, board, sent));
}

fn follow(name: &str, board: &Board, tell: impl FnOnce(&Board, &AtomicU64) + Send + 'static) {
    let sent = &SENT[LISTENERS.fetch_add(1, Ordering::Relaxed)];
    sent.store(0, Ordering::Relaxed);
    let board = board.clone();
    let spawned = std::thread::Builder::new().name(name.into()).spawn(move || tell(&board, sent));
    if let Err(error) = spawned {
        sent.store(u64::MAX, Ordering::Relaxed);
        log::warn!("the host is not notified: {error}");
    }
}

/// Waits until everybody has been told everything, or has had time enough.
pub fn finish(board: &Board) {
    let last = board.snapshot().events;
    let deadline = Instant::now() + FINISH;
    while SENT.iter().any(|sent| sent.load(Ordering::Relaxed) <= last) && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Frames with events on one connection, as [`Reply::Events`]; a new connection goes on where the last one ended.
fn push(port: u32, mut from: u64, board: &Board, sent: &AtomicU64) {
    loop {
        match connect(port) {
            Ok(mut stream) => {
                log::debug!("events are pushed to port {port} of the host");
                let error = loop {
                    let events = board.events(from, Instant::now() + LOOK);
                    let next = events.next;
                    if events.events.is_empty() {
                        continue;
                    }
                    match wire::write(&mut stream, &Reply::Events(events), MAX_REPLY) {
                        Ok(()) => from = next,
                        Err(error) => break error,
                    }
                    sent.store(from, Ordering::Relaxed);
                };
                log::debug!("events could not be pushed: {error}");
            }
            Err(error) => log::debug!("port {port} of the host: {error}"),
        }
        std::thread::sleep(PAUSE);
    }
}

/// From a port that only who may bind such ports can have (`CAP_NET_BIND_SERVICE`): the host refuses others, so that not any process of
/// the container can speak as the guest.
fn connect(port: u32) -> io::Result<VsockStream> {
    let socket = socket(AddressFamily::Vsock, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    let mut taken = Err(Errno::EADDRINUSE);
    for own in PRIVILEGED.rev() {
        taken = bind(socket.as_raw_fd(), &VsockAddr::new(VMADDR_CID_ANY, own));
        if taken != Err(Errno::EADDRINUSE) {
            break;
        }
    }
    taken?;
    nix::sys::socket::connect(socket.as_raw_fd(), &VsockAddr::new(VMADDR_CID_HOST, port))?;
    // SAFETY: the socket is ours, open, and given away here.
    let stream = unsafe { VsockStream::from_raw_fd(socket.into_raw_fd()) };
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}
