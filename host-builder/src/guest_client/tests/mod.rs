//! Queries against a fake guest: a thread behind a Unix socket that speaks the hybrid protocol and
//! then does what a test tells it to.

mod exchange;
mod follow;
mod listen;
mod many;
mod screen;
mod versions;

use super::*;
use image::event::Happening;
use image::status::{Outcome, Phase, Status};
use image::wire::{self, MAX_REPLY, MAX_REQUEST, Reply, Request, Until};
use std::io::Write;
use std::os::unix::net::{UnixListener, UnixStream};
use std::thread;
use std::time::{Duration, Instant};

/// What happens at once has happened by then, also on a machine that has much else to do.
pub(crate) const SOON: Duration = Duration::from_secs(20);
/// What must not be waited for.
pub(crate) const LATE: Duration = Duration::from_mins(10);

pub(crate) fn a_status(outcome: Outcome) -> Status {
    Status {
        version: "0.1.0".into(),
        kernel: "6.12.1-cloud-amd64".into(),
        driver_planned: Some("550.163.01".into()),
        driver_loaded: Some("550.163.01".into()),
        phase: Phase::Running,
        outcome,
        uptime_ms: 4321,
        ..Status::default()
    }
}

pub(crate) fn frame(reply: &Reply) -> Vec<u8> {
    let mut bytes = Vec::new();
    wire::write(&mut bytes, reply, MAX_REPLY).unwrap();
    bytes
}

pub(crate) fn status_frame(outcome: Outcome) -> Vec<u8> {
    frame(&Reply::Status(Box::new(a_status(outcome))))
}

/// A guest that hands each connection, `CONNECT` line already read, to `serve` with the number of
/// the connection.
pub(crate) struct FakeGuest {
    dir: tempfile::TempDir,
}

impl FakeGuest {
    pub(crate) fn new(serve: impl Fn(usize, UnixStream) + Send + 'static) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(dir.path().join("v.sock")).unwrap();
        thread::spawn(move || {
            for (number, stream) in listener.incoming().enumerate() {
                let Ok(mut stream) = stream else { return };
                if read_connect(&mut stream) == "CONNECT 1042\n" {
                    serve(number, stream);
                }
            }
        });
        Self { dir }
    }

    /// One that answers every connection with these bytes.
    pub(crate) fn answering(bytes: Vec<u8>) -> Self {
        Self::new(move |_, mut stream| {
            let _ = stream.write_all(&bytes);
            let _ = std::io::copy(&mut stream, &mut std::io::sink());
        })
    }

    /// One that takes every connection and never says a word.
    pub(crate) fn silent() -> Self {
        let held = std::sync::Mutex::new(Vec::new());
        Self::new(move |_, stream| held.lock().unwrap().push(stream))
    }

    pub(crate) fn target(&self) -> Target {
        Target::Unix { path: self.dir.path().join("v.sock"), port: 1042 }
    }

    fn ask(&self) -> Result<Status, QueryError> {
        status(&self.target(), SOON)
    }
}

fn read_connect(stream: &mut UnixStream) -> String {
    let mut line = String::new();
    // Unbuffered: the request behind the line must stay in the socket.
    let mut byte = [0];
    while !line.ends_with('\n') && std::io::Read::read_exact(stream, &mut byte).is_ok() {
        line.push(char::from(byte[0]));
    }
    line
}

pub(crate) fn after_ok(bytes: &[u8]) -> Vec<u8> {
    [b"OK 1073741824\n", bytes].concat()
}
