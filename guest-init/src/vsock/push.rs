//! Sends events to the host on a connection that the guest opens, and systemd's notifications to supervisors that support them.

use super::connection::{LOOK, connect};
use crate::status::{Board, Follower};
use image::config::Config;
use image::wire::{self, MAX_REPLY, Reply};
use std::time::{Duration, Instant};

/// Pause between two attempts to connect.
const PAUSE: Duration = Duration::from_secs(1);

/// Starts the configured notifications.
pub fn start(config: &Config, board: &Board) {
    if let Some(port) = config.notify {
        follow("push", board, move |board, follower| push(port, 0, board, follower));
    }
    if let Some(socket) = config.notify_socket.or_else(super::smbios::notify_socket) {
        follow("notify", board, move |board, follower| super::systemd_notify::tell(socket, board, follower));
    }
}

/// Continues to send events in another process, to which PID 1 has transferred its status. (Further notifications to the
/// supervisor are up to the image's init.)
pub fn resume(port: u32, board: &Board) {
    let from = board.snapshot().events + 1;
    follow("push", board, move |board, follower| push(port, from, board, follower));
}

fn follow(name: &str, board: &Board, tell: impl FnOnce(&Board, &Follower) + Send + 'static) {
    let (board, follower) = (board.clone(), board.follower());
    let spawned = std::thread::Builder::new().name(name.into()).spawn(move || tell(&board, &follower));
    if let Err(error) = spawned {
        log::warn!("cannot start a thread to notify the host: {error}");
    }
}

/// Sends frames with events on one connection, as [`Reply::Events`]; a new connection continues where the last one ended.
fn push(port: u32, mut from: u64, board: &Board, follower: &Follower) {
    loop {
        match connect(port) {
            Ok(mut stream) => {
                log::debug!("sending events to port {port} of the host");
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
                    follower.has_sent(from);
                };
                log::debug!("cannot send events: {error}");
            }
            Err(error) => log::debug!("cannot connect to port {port} of the host: {error}"),
        }
        std::thread::sleep(PAUSE);
    }
}
