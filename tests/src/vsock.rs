//! The host's end of a vsock connection, independent of [`host_builder::guest_client`], which is
//! under test.
//!
//! The backend listens on a Unix socket and speaks the hybrid protocol of Firecracker and Cloud
//! Hypervisor: `CONNECT <port>`, answered by `OK <port>`, then bytes. A connection to a port
//! without a listener is closed without an answer.

use std::{
    io::{self, Read as _, Write as _},
    os::unix::net::UnixStream,
    path::Path,
    time::Duration,
};

use crate::{RigError, process::poll};

/// Longest line that answers `CONNECT`.
const REPLY_MAX: usize = 32;

/// Connects to the guest's `port` through the hybrid socket `uds`, trying again until the guest
/// listens.
pub fn connect(uds: &Path, port: u32, deadline: Duration) -> Result<UnixStream, RigError> {
    let mut last = String::new();
    let stream: Option<UnixStream> = poll(deadline, || match try_connect(uds, port) {
        Ok(stream) => Ok::<_, RigError>(Some(stream)),
        Err(error) => {
            last = error.to_string();
            Ok(None)
        }
    })?;
    let what = format!("a connection to vsock port {port} through {}", uds.display());
    stream.ok_or(RigError::Deadline { what, deadline, context: last })
}

/// Connects once; an error if no program listens.
pub fn try_connect(uds: &Path, port: u32) -> io::Result<UnixStream> {
    let mut stream = UnixStream::connect(uds)?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    stream.write_all(format!("CONNECT {port}\n").as_bytes())?;
    let reply = read_line(&mut stream)?;
    if !reply.starts_with("OK ") {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("the vsock backend answered {reply:?}"),
        ));
    }
    stream.set_read_timeout(None)?;
    Ok(stream)
}

/// One byte at a time: what follows the line belongs to the guest.
fn read_line(stream: &mut UnixStream) -> io::Result<String> {
    let mut line = Vec::new();
    let mut byte = [0];
    while line.len() < REPLY_MAX {
        stream.read_exact(&mut byte)?;
        if byte == *b"\n" {
            break;
        }
        line.push(byte[0]);
    }
    Ok(String::from_utf8_lossy(&line).into_owned())
}

#[cfg(test)]
mod tests {
    use std::{os::unix::net::UnixListener, path::PathBuf, thread};

    use super::*;

    /// A backend that answers one connection with `reply`.
    fn answering(dir: &Path, reply: &'static [u8]) -> PathBuf {
        let path = dir.join("hybrid.sock");
        let listener = UnixListener::bind(&path).unwrap();
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 13];
            stream.read_exact(&mut request).unwrap();
            assert_eq!(&request, b"CONNECT 1042\n");
            stream.write_all(reply).unwrap();
        });
        path
    }

    #[test]
    fn guest_bytes_after_the_answer_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        let mut stream = try_connect(&answering(dir.path(), b"OK 1042\nhello"), 1042).unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        assert_eq!(text, "hello");
    }

    #[test]
    fn port_without_a_listener_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let error = try_connect(&answering(dir.path(), b""), 1042).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }
}
