//! Guests connect to the host and push their events. Each frame is a `Reply::Events`.

use super::connection::Connection;
use super::error::{QueryError, Step};
use super::follow::Part;
use super::quota::Slots;
use crate::common::error::{Error, Result};
use crate::common::{interrupt, ui};
use image::event::Event;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::thread::Builder;
use std::time::{Duration, Instant};
use vsock::{VMADDR_CID_ANY, VsockListener};

const FORMS: &str = "expected unix:PATH:PORT or vsock:PORT";
/// Longest time for the rest of a frame after its first byte.
const FRAME: Duration = Duration::from_secs(10);
/// Shortest time that a connection counts as open, so that a guest that reconnects in a loop costs
/// little.
const SHORTEST: Duration = Duration::from_secs(1);

/// Most events that a connection may send at once: twice the number that a guest keeps.
const BURST: f64 = 1024.0;
/// Events per second that it may send beyond that.
const RATE: f64 = 64.0;
/// Number of bytes that count as one event.
const EVENT: f64 = 256.0;

/// The rate limit of a connection.
struct Allowance {
    left: f64,
    at: Instant,
}

impl Allowance {
    fn new(now: Instant) -> Self {
        Self { left: BURST, at: now }
    }

    /// Subtracts received data. Returns how long to stop reading.
    fn spend(&mut self, events: usize, bytes: usize, now: Instant) -> Duration {
        #[expect(clippy::cast_precision_loss, reason = "a frame is bounded far below")]
        let cost = (events.max(1) as f64).max(bytes as f64 / EVENT);
        self.refill(now);
        self.left -= cost;
        Duration::from_secs_f64((-self.left).max(0.0) / RATE)
    }

    /// Until it is whole again.
    fn recovery(&mut self, now: Instant) -> Duration {
        self.refill(now);
        Duration::from_secs_f64((BURST - self.left) / RATE)
    }

    fn refill(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        (self.left, self.at) = ((self.left + passed * RATE).min(BURST), now);
    }
}

/// Where guests connect to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// Behind the hybrid socket of one guest: its VMM connects to PATH_PORT.
    Unix {
        /// The guest's hybrid socket.
        path: PathBuf,
        /// The host's port, as the guest sees it.
        port: u32,
    },
    /// AF_VSOCK, for every guest of this host.
    Vsock {
        /// The port.
        port: u32,
    },
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let bad = || format!("{FORMS}, found {text:?}");
        if let Some(port) = text.strip_prefix("vsock:") {
            return port.parse().map(|port| Self::Vsock { port }).map_err(|_| bad());
        }
        let (path, port) =
            text.strip_prefix("unix:").and_then(|rest| rest.rsplit_once(':')).ok_or_else(bad)?;
        match (path, port.parse()) {
            ("", _) | (_, Err(_)) => Err(bad()),
            (path, Ok(port)) => Ok(Self::Unix { path: path.into(), port }),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix { path, port } => write!(out, "unix:{}:{port}", path.display()),
            Self::Vsock { port } => write!(out, "vsock:{port}"),
        }
    }
}

/// Data from a guest that pushes events.
pub enum News {
    /// Events.
    Part(Part<Event>),
    /// Its connection has ended, by itself or because of what it sent.
    Ended(QueryError),
}

/// Listens on all addresses, and passes received events to `each` with the guest's name. Returns
/// when it cannot listen, or when no listener is left.
pub fn listen(addresses: &[Address], each: impl Fn(&str, News) + Sync) -> Result<()> {
    let doors = addresses.iter().map(Door::open).collect::<Result<Vec<_>>>()?;
    allow_descriptors();
    let slots = Slots::default();
    std::thread::scope(|scope| {
        for door in &doors {
            let (slots, each) = (&slots, &each);
            scope.spawn(move || {
                loop {
                    let Ok((socket, guest)) = door.accept() else {
                        // Out of descriptors, say: let others finish first.
                        std::thread::sleep(Duration::from_millis(50));
                        continue;
                    };
                    let place = match slots.take(&guest) {
                        Ok(place) => place,
                        Err(why) => {
                            if let Some(warning) = slots.warning(&guest, why) {
                                ui::say(&warning);
                            }
                            continue;
                        }
                    };
                    let spawned = Builder::new().spawn_scoped(scope, move || {
                        let begin = Instant::now();
                        let mut allowance = Allowance::new(begin);
                        let end = receive(socket, &mut allowance, |part| each(&guest, News::Part(part)));
                        each(&guest, News::Ended(end));
                        // Who comes again at once may not bring more than who stays.
                        let rest = SHORTEST.saturating_sub(begin.elapsed());
                        std::thread::sleep(rest.max(allowance.recovery(Instant::now())));
                        drop(place);
                    });
                    if let Err(error) = spawned {
                        ui::say(&format!("warning: cannot start a thread for a connection: {error}"));
                    }
                }
            });
        }
    });
    Ok(())
}

/// Raises the limit of open files to the maximum. The default limit is low for programs that use
/// select().
fn allow_descriptors() {
    if let Ok((_, most)) = getrlimit(Resource::RLIMIT_NOFILE) {
        // With the old limit it works, too, for fewer guests.
        let _ = setrlimit(Resource::RLIMIT_NOFILE, most, most);
    }
}

/// Reads all frames of a connection. Returns why it ended.
fn receive(socket: OwnedFd, allowance: &mut Allowance, mut each: impl FnMut(Part<Event>)) -> QueryError {
    let mut next = 0;
    let result: std::result::Result<(), QueryError> = (|| {
        let failed = |error| QueryError::io(Step::Reply, FRAME, error);
        let mut connection = Connection::accepted(socket, Instant::now()).map_err(failed)?;
        loop {
            connection.wait_for_more().map_err(failed)?;
            connection.set_deadline(Instant::now() + FRAME);
            let part;
            let before = connection.received();
            (part, next) = Part::of(connection.receive(FRAME)?.0, next)?;
            let pause = allowance.spend(part.items.len(), connection.received() - before, Instant::now());
            each(part);
            // What it sends in the meantime waits in the kernel, and then in the guest, which keeps
            // a limited number of events.
            std::thread::sleep(pause);
        }
    })();
    result.err().unwrap_or(QueryError::Closed { step: Step::Reply })
}

/// Creates the listener for an address.
enum Door {
    Unix { listener: UnixListener, name: String, _file: Remove },
    Vsock(VsockListener),
}

impl Door {
    fn open(address: &Address) -> Result<Self> {
        let failed = |hint: &str, error: io::Error| {
            Error::new(format!("could not listen on {address}")).hint(hint).source(error)
        };
        match address {
            Address::Vsock { port } => {
                let listener = VsockListener::bind_with_cid_port(VMADDR_CID_ANY, *port).map_err(|error| {
                    failed("check that the port is free and that the kernel has AF_VSOCK (modprobe vhost_vsock); for a hybrid socket use unix:PATH:PORT", error)
                })?;
                Ok(Self::Vsock(listener))
            }
            Address::Unix { path, port } => {
                let mut file = path.clone().into_os_string();
                file.push(format!("_{port}"));
                let file = PathBuf::from(file);
                let listener = bind(&file).map_err(|error| {
                    failed("check that no other program listens there, and that the directory exists and is writable", error)
                })?;
                let file = Remove { _interrupted: interrupt::Guard::new(&file), file };
                Ok(Self::Unix { listener, name: address.to_string(), _file: file })
            }
        }
    }

    fn accept(&self) -> io::Result<(OwnedFd, String)> {
        match self {
            Self::Unix { listener, name, .. } => {
                listener.accept().map(|(stream, _)| (stream.into(), name.clone()))
            }
            Self::Vsock(listener) => loop {
                let (stream, peer) = listener.accept()?;
                // PID 1 comes from such a port; any program of its container may come from others.
                if is_privileged(peer.port()) {
                    return Ok((stream.into(), format!("vsock:{}", peer.cid())));
                }
            },
        }
    }
}

/// Whether a port is privileged, so that only a process with `CAP_NET_BIND_SERVICE` in the guest
/// can use it.
fn is_privileged(port: u32) -> bool {
    port < 1024
}

/// Removes a stale socket, which would prevent a new one.
fn bind(path: &Path) -> io::Result<UnixListener> {
    let is_socket = path.symlink_metadata().is_ok_and(|metadata| metadata.file_type().is_socket());
    if is_socket
        && let Err(error) = UnixStream::connect(path)
        && error.kind() == io::ErrorKind::ConnectionRefused
    {
        std::fs::remove_file(path)?;
    }
    UnixListener::bind(path)
}

/// A file that is removed on drop and on an interrupt.
struct Remove {
    file: PathBuf,
    _interrupted: interrupt::Guard,
}

impl Drop for Remove {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.file);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_without_the_right_to_it_is_not_listened_to() {
        assert!(is_privileged(1023) && is_privileged(512));
        assert!(!is_privileged(1024) && !is_privileged(u32::MAX));
    }

    #[test]
    fn a_guest_brings_its_history_at_once_and_then_so_much_a_second() {
        let begin = Instant::now();
        let mut allowance = Allowance::new(begin);
        assert_eq!(allowance.spend(512, 60_000, begin), Duration::ZERO);
        assert_eq!(allowance.recovery(begin), Duration::from_secs(8));
        assert_eq!(allowance.spend(512, 60_000, begin), Duration::ZERO);
        assert_eq!(allowance.spend(64, 100, begin), Duration::from_secs(1));
        // A frame without events, and one of many bytes, are not free.
        let later = begin + Duration::from_secs(1);
        assert_eq!(allowance.spend(0, 0, later), Duration::from_secs(1) / 64);
        assert!(allowance.spend(1, 1 << 20, later) > Duration::from_mins(1));
        assert_eq!(allowance.recovery(later + Duration::from_hours(1)), Duration::ZERO);
    }

    #[test]
    fn addresses_are_read_or_refused_with_the_forms() {
        assert_eq!("vsock:9000".parse(), Ok(Address::Vsock { port: 9000 }));
        assert_eq!("unix:/a/v:b:7".parse(), Ok(Address::Unix { path: "/a/v:b".into(), port: 7 }));
        for text in ["", "vsock:", "vsock:2:9000", "unix:/a", "unix::7", "unix:/a:x", "/a:7"] {
            assert!(text.parse::<Address>().unwrap_err().starts_with(FORMS), "{text}");
        }
    }
}
