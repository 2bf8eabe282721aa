//! Sends events to the host on a connection that the guest opens, and systemd's notifications to supervisors that support them.

use super::connection::{LOOK, Pieces, connect};
use crate::status::{Board, Follower, helper};
use image::config::Config;
use image::wire::{self, MAX_REPLY, OLDEST, Reply, VERSION, WireError};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::io::Write;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Pause between two attempts to connect.
const PAUSE: Duration = Duration::from_secs(1);
/// Time for a host to end a connection on which it has received a frame of a newer version than it speaks, in milliseconds.
const REFUSAL_MS: u16 = 250;

/// Starts the configured notifications.
pub fn start(config: &Config, board: &Board) {
    if let Some(port) = config.notify {
        let from = AtomicU64::new(0);
        follow("push", board, move |board, follower| push(port, &from, board, follower));
    }
    if let Some(socket) = config.notify_socket.or_else(super::smbios::notify_socket) {
        let from = AtomicU64::new(0);
        let tell = move |board: &Board, follower: &Follower| {
            super::systemd_notify::tell(socket, &from, board, follower);
        };
        follow("notify", board, tell);
    }
}

/// Continues to send events in another process, to which PID 1 has transferred its status. (Further notifications to the
/// supervisor are up to the image's init.)
pub fn resume(port: u32, board: &Board) {
    let from = AtomicU64::new(board.snapshot().events + 1);
    follow("push", board, move |board, follower| push(port, &from, board, follower));
}

fn follow(name: &str, board: &Board, tell: impl Fn(&Board, &Follower) + Send + Sync + 'static) {
    let (shared, follower) = (board.clone(), board.follower());
    if let Err(error) = helper::start(name, board, move || tell(&shared, &follower)) {
        log::warn!("cannot start a thread to notify the host: {error}");
    }
}

/// Sends frames with events on one connection, as [`Reply::Events`]; a new connection continues where the last one ended, with the
/// event `from`.
fn push(port: u32, from: &AtomicU64, board: &Board, follower: &Follower) {
    let mut newest = VERSION;
    loop {
        match connect(port) {
            Ok(mut stream) => {
                log::debug!("sending events to port {port} of the host");
                newest = loop {
                    match send(&mut stream, newest, from.load(Ordering::Relaxed), board) {
                        Sent::To(next) => from.store(next, Ordering::Relaxed),
                        Sent::Refused(version) => break version - 1,
                        // The next connection may lead to a host of another release.
                        Sent::Failed(error) => {
                            log::debug!("cannot send events: {error}");
                            break VERSION;
                        }
                    }
                    follower.has_sent(from.load(Ordering::Relaxed));
                };
            }
            Err(error) => log::debug!("cannot connect to port {port} of the host: {error}"),
        }
        std::thread::sleep(PAUSE);
    }
}

/// What has become of one frame.
#[derive(Debug)]
enum Sent {
    /// The host has it; the number of the next event.
    To(u64),
    /// The host does not speak this version, and has ended the connection.
    Refused(u16),
    /// The connection has failed.
    Failed(WireError),
}

/// Sends the events from a number on, if there are any, as version `newest` has them. The frame is in the oldest version that has
/// all of it, so that hosts of older releases can listen.
fn send(stream: &mut (impl Write + AsFd), newest: u16, from: u64, board: &Board) -> Sent {
    let events = board.events(from, Instant::now() + LOOK);
    let next = events.next;
    if events.events.is_empty() {
        return Sent::To(from);
    }
    let reply = Reply::Events(events).for_version(newest);
    let version = reply.oldest_version();
    match wire::write_as(&mut Pieces(&mut *stream), &reply, MAX_REPLY, version) {
        Err(error) => Sent::Failed(error),
        Ok(()) if version > OLDEST && is_ended(stream) => Sent::Refused(version),
        Ok(()) => Sent::To(next),
    }
}

/// Returns whether the host ends the connection within the time for a refusal. The host sends nothing, so the end is all that can
/// be read.
fn is_ended(stream: &impl AsFd) -> bool {
    let mut fds = [PollFd::new(stream.as_fd(), PollFlags::POLLIN)];
    poll(&mut fds, PollTimeout::from(REFUSAL_MS)).is_ok_and(|count| count > 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::event::{Events, Happening, StopBy};
    use image::status::Outcome;
    use std::os::unix::net::UnixStream;

    /// A board with an event that every version has, and one of version 8.
    fn board() -> Board {
        let board = Board::new("k".into());
        board.happened(Happening::Outcome(Outcome::Ready));
        board.happened(Happening::Stop { by: StopBy::Host, signal: 15, grace_ms: 1 });
        board
    }

    /// Sends the events from a number on to a host that speaks versions up to `host`. Returns what became of the frame, its
    /// version, and its events if the host speaks it.
    fn send_to(host: u16, newest: u16, from: u64) -> (Sent, u16, Option<Events>) {
        let (mut guest, mut listener) = UnixStream::pair().unwrap();
        let received = std::thread::spawn(move || {
            let (reply, version) = wire::read_versioned(&mut listener, MAX_REPLY).unwrap();
            let Reply::Events(events) = reply else { panic!("{reply:?}") };
            // Without the version, the host ends the connection.
            (version, (version <= host).then_some((listener, events)))
        });
        let sent = send(&mut guest, newest, from, &board());
        let (version, events) = received.join().unwrap();
        (sent, version, events.map(|(_, events)| events))
    }

    #[test]
    fn current_host_receives_every_event() {
        let (sent, version, events) = send_to(VERSION, VERSION, 0);
        assert!(matches!(sent, Sent::To(3)), "{sent:?}");
        assert_eq!((version, events.unwrap().events.len()), (8, 2));
    }

    #[test]
    fn older_host_refuses_then_receives_what_it_knows() {
        let (sent, version, events) = send_to(7, VERSION, 0);
        assert!(matches!(sent, Sent::Refused(8)) && version == 8 && events.is_none(), "{sent:?}");
        let (sent, version, events) = send_to(7, 7, 0);
        assert!(matches!(sent, Sent::To(3)), "{sent:?}");
        let events = events.unwrap();
        assert_eq!((version, events.events.len(), events.next), (7, 1, 3));
    }

    #[test]
    fn older_host_never_sees_a_newer_frame_without_need() {
        let board = Board::new("k".into());
        board.happened(Happening::Outcome(Outcome::Ready));
        let (mut guest, mut listener) = UnixStream::pair().unwrap();
        assert!(matches!(send(&mut guest, VERSION, 0, &board), Sent::To(2)));
        let (_, version) = wire::read_versioned::<Reply>(&mut listener, MAX_REPLY).unwrap();
        assert_eq!(version, OLDEST);
    }
}
