//! A connection to a guest with one deadline for everything, which a peer that sends byte by byte
//! cannot extend.

use super::error::{QueryError, Step};
use super::target::Target;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{self, AddressFamily, SockFlag, SockType, SockaddrLike, UnixAddr, sockopt};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};
use vsock::VsockAddr;

/// Longest line that answers `CONNECT`: `OK `, ten digits, and room to spare.
const OK_LINE: usize = 32;
/// Time between two attempts to connect to a listener whose queue is full.
const QUEUE_FULL: Duration = Duration::from_millis(20);

/// A non-blocking stream socket and its deadline.
pub struct Connection {
    socket: OwnedFd,
    deadline: Instant,
    received: usize,
}

impl Connection {
    /// Connects to the guest's port. `deadline` applies until [`Connection::set_deadline`] changes
    /// it.
    pub fn open(target: &Target, deadline: Instant) -> Result<Self, QueryError> {
        match target {
            Target::Unix { path, port } => hybrid(path, *port, deadline),
            Target::Vsock { cid, port } => {
                let refused = |errno| vsock_refusal(*cid, *port, errno);
                connect(AddressFamily::Vsock, &VsockAddr::new(*cid, *port), deadline, refused)
            }
        }
    }

    /// A connection that a peer opened.
    pub fn accepted(socket: OwnedFd, deadline: Instant) -> io::Result<Self> {
        let flags = fcntl(&socket, FcntlArg::F_GETFL)?;
        fcntl(&socket, FcntlArg::F_SETFL(OFlag::from_bits_truncate(flags) | OFlag::O_NONBLOCK))?;
        Ok(Self { socket, deadline, received: 0 })
    }

    /// Another handle to the same connection, such as to read and write at the same time.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self { socket: self.socket.try_clone()?, deadline: self.deadline, received: 0 })
    }

    /// Waits without a deadline until the peer sends more data or closes the connection.
    pub fn wait_for_more(&self) -> io::Result<()> {
        loop {
            match poll(&mut [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)], PollTimeout::NONE) {
                Err(Errno::EINTR) => {}
                result => return result.map(drop).map_err(io::Error::from),
            }
        }
    }

    /// Number of bytes received so far.
    pub fn received(&self) -> usize {
        self.received
    }

    /// Changes the deadline.
    pub fn set_deadline(&mut self, deadline: Instant) {
        self.deadline = deadline;
    }

    fn wait_for(&self, events: PollFlags) -> io::Result<()> {
        loop {
            let left = self.deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(io::ErrorKind::TimedOut.into());
            }
            // Rounded up to avoid busy polling in the last millisecond.
            let left = left + Duration::from_millis(1);
            let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
            match poll(&mut [PollFd::new(self.socket.as_fd(), events)], timeout) {
                Ok(0) | Err(Errno::EINTR) => {}
                Ok(_) => return Ok(()),
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}

impl Read for Connection {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            self.wait_for(PollFlags::POLLIN)?;
            match nix::unistd::read(&self.socket, buffer) {
                Err(Errno::EAGAIN | Errno::EINTR) => {}
                result => {
                    self.received += result.unwrap_or(0);
                    return result.map_err(io::Error::from);
                }
            }
        }
    }
}

impl Write for Connection {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            self.wait_for(PollFlags::POLLOUT)?;
            match nix::unistd::write(&self.socket, bytes) {
                Err(Errno::EAGAIN | Errno::EINTR) => {}
                result => return result.map_err(io::Error::from),
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Connects without blocking beyond the deadline. `refused` maps errors of the kernel.
fn connect(
    family: AddressFamily,
    address: &dyn SockaddrLike,
    deadline: Instant,
    refused: impl Fn(Errno) -> QueryError,
) -> Result<Connection, QueryError> {
    let start = Instant::now();
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket::socket(family, SockType::Stream, flags, None).map_err(&refused)?;
    let connection = Connection { socket, deadline, received: 0 };
    let failed = |error| QueryError::io(Step::Connect, deadline - start, error);
    loop {
        match socket::connect(connection.socket.as_raw_fd(), address) {
            Ok(()) | Err(Errno::EISCONN) => return Ok(connection),
            Err(Errno::EINTR) => {}
            // A Unix listener whose queue is full; poll() cannot wait for it.
            Err(Errno::EAGAIN) if Instant::now() < deadline => std::thread::sleep(QUEUE_FULL),
            Err(Errno::EAGAIN) => return Err(failed(io::ErrorKind::TimedOut.into())),
            Err(Errno::EINPROGRESS | Errno::EALREADY) => {
                connection.wait_for(PollFlags::POLLOUT).map_err(failed)?;
                let outcome = socket::getsockopt(&connection.socket, sockopt::SocketError);
                match outcome.map(Errno::from_raw) {
                    Ok(Errno::UnknownErrno) => return Ok(connection),
                    Ok(errno) | Err(errno) => return Err(refused(errno)),
                }
            }
            Err(errno) => return Err(refused(errno)),
        }
    }
}

/// Sends `CONNECT <port>` and expects `OK <number>`. The peer closes the connection when no program
/// listens on the port.
fn hybrid(path: &Path, port: u32, deadline: Instant) -> Result<Connection, QueryError> {
    let start = Instant::now();
    let no_socket =
        |errno: Errno| QueryError::NoSocket { what: path.display().to_string(), source: errno.into() };
    let address = UnixAddr::new(path).map_err(no_socket)?;
    let mut connection = connect(AddressFamily::Unix, &address, deadline, no_socket)?;
    let failed = |error| match QueryError::io(Step::Handshake, deadline - start, error) {
        QueryError::Closed { .. } => QueryError::NotListening { port },
        other => other,
    };
    connection.write_all(format!("CONNECT {port}\n").as_bytes()).map_err(failed)?;
    let line = read_line(&mut connection).map_err(failed)?;
    if is_ok(&line) {
        return Ok(connection);
    }
    let found = line.escape_ascii();
    Err(QueryError::NotOurProtocol {
        what: format!("expected \"OK <number>\" after CONNECT, found \"{found}\""),
    })
}

/// Reads a line one byte at a time, because the bytes after it belong to the guest.
fn read_line(connection: &mut Connection) -> io::Result<Vec<u8>> {
    let mut line = Vec::new();
    let mut byte = [0];
    while line.len() < OK_LINE {
        connection.read_exact(&mut byte)?;
        if byte == *b"\n" {
            break;
        }
        line.push(byte[0]);
    }
    Ok(line)
}

/// Whether a line is `OK <number>`. The number is the backend's port on the host, which is not
/// used.
fn is_ok(line: &[u8]) -> bool {
    line.strip_prefix(b"OK ").is_some_and(|rest| !rest.is_empty() && rest.iter().all(u8::is_ascii_digit))
}

/// Maps errors of AF_VSOCK. A guest resets a connection to a port without a listener. For a CID
/// without a guest, a host without a transport, and a kernel without the address family there is
/// nothing to connect to.
fn vsock_refusal(cid: u32, port: u32, errno: Errno) -> QueryError {
    let what = match errno {
        Errno::ECONNRESET | Errno::ECONNREFUSED => return QueryError::NotListening { port },
        // The kernel's own deadline, 2 s: the guest's vsock driver is not loaded yet, or the guest
        // hangs.
        Errno::ETIMEDOUT => {
            return QueryError::TimedOut { step: Step::Connect, after: Duration::from_secs(2) };
        }
        Errno::EAFNOSUPPORT | Errno::EPROTONOSUPPORT | Errno::ESOCKTNOSUPPORT => {
            "this kernel has no AF_VSOCK".to_owned()
        }
        _ => format!("no guest has CID {cid}, or this host has no vhost_vsock"),
    };
    QueryError::NoSocket { what, source: errno.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_ok_and_a_number_is_an_answer() {
        assert!(is_ok(b"OK 1042") && is_ok(b"OK 1073741824"));
        for line in [&b"OK"[..], b"OK ", b"OK x", b"OK 1\r", b"ERR 1", b"HTTP/1.1 400 Bad Request", b""] {
            assert!(!is_ok(line), "{line:?}");
        }
    }

    #[test]
    fn errors_of_vsock_have_names() {
        let name = |errno| vsock_refusal(3, 1042, errno);
        assert!(matches!(name(Errno::ECONNRESET), QueryError::NotListening { port: 1042 }));
        assert!(matches!(name(Errno::ETIMEDOUT), QueryError::TimedOut { step: Step::Connect, .. }));
        assert!(name(Errno::ETIMEDOUT).is_passing());
        for errno in [Errno::ENODEV, Errno::EAFNOSUPPORT, Errno::ENETUNREACH] {
            assert!(matches!(name(errno), QueryError::NoSocket { .. }));
            assert_eq!(name(errno).is_passing(), errno != Errno::EAFNOSUPPORT);
        }
        assert_eq!(
            name(Errno::ENODEV).to_string(),
            "no socket: no guest has CID 3, or this host has no vhost_vsock"
        );
    }

    #[test]
    fn a_cid_that_cannot_be_is_no_socket_or_times_out() {
        let start = Instant::now();
        let target = Target::Vsock { cid: u32::MAX - 2, port: 1042 };
        let result = Connection::open(&target, start + Duration::from_secs(3));
        let error = result.err().expect("no guest has this CID");
        // On a kernel without AF_VSOCK there is nothing to wait for.
        assert!(error.is_passing() || error.to_string().ends_with("no AF_VSOCK"), "{error}");
        assert!(start.elapsed() < Duration::from_mins(1));
    }
}
