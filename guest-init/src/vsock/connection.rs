//! Connections that the guest opens to the host.

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, bind, socket};
use std::io::{self, Write};
use std::ops::Range;
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd};
use std::time::Duration;
use vsock::{VMADDR_CID_ANY, VMADDR_CID_HOST, VsockAddr, VsockStream};

/// Most bytes of one write. The kernel makes one packet of a write, and newer kernels (such as 6.12.117) put
/// one above 32 KiB into several parts of memory. vhost-device-vsock 0.3.0 drops such a packet.
const AT_ONCE: usize = 16 << 10;

/// Writes to a connection in pieces that every backend passes on.
pub(super) struct Pieces<W: Write>(pub W);

impl<W: Write> Write for Pieces<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(&bytes[..bytes.len().min(AT_ONCE)])
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// Timeout for sending a notification.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);
/// Maximum sleep of a thread that has nothing to send.
pub(super) const LOOK: Duration = Duration::from_secs(10);
/// Privileged source ports.
const PRIVILEGED: Range<u32> = 512..1024;

/// Connects from a port that requires `CAP_NET_BIND_SERVICE`. The host refuses other ports, so that an unprivileged process of the
/// container cannot impersonate guest-init.
pub(super) fn connect(port: u32) -> io::Result<VsockStream> {
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
