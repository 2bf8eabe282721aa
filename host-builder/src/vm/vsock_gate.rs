//! Keeps clients away from the vsock backend until the guest's vsock device runs.
//!
//! vhost-device-vsock 0.3.0 loses its worker, and with it the guest's vsock, if a client connects while QEMU sets up the
//! guest's memory and rings: a ring that is not ready is an error that ends its event loop. So the gate refuses connections
//! to the hybrid socket, in the same way as a guest without a listener, until QEMU's monitor reports that the device runs.
//!
//! The command is `x-query-virtio-vhost-queue-status` (QEMU 7.2 and later), which QEMU refuses until it has started the
//! device. The start and the command exclude each other, and since QEMU 8.2 the start ends with the backend's answer to
//! `VHOST_USER_SET_VRING_ENABLE`, the last message for each ring. An older QEMU does not wait for that answer, and the gate
//! stays closed. `x-query-virtio-status` also has this state and the driver's `DRIVER_OK`, but aborts QEMU 11.1 (an
//! assertion in `visit_start_struct`). `x-query-virtio-queue-status` stops the rings of the backend.

use super::qemu::VSOCK_PATH;
use super::qmp::{self, Qmp};
use crate::common::error::{Doing, Error, Result};
use nix::sys::socket::{Shutdown, shutdown};
use serde_json::json;
use std::fs;
use std::io::ErrorKind;
use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// Time between two questions to the monitor.
const POLL: Duration = Duration::from_millis(50);
/// Longest time for an answer of the monitor. While QEMU starts, it pins the guest's memory and opens its GPUs, and
/// answers after that.
const ANSWER: Duration = Duration::from_mins(10);
/// The first QEMU that waits until the backend has enabled a ring.
const OLDEST: (u64, u64) = (8, 2);
const COMMAND: &str = "x-query-virtio-vhost-queue-status";
/// The end of QEMU's reason to refuse the command before the device runs.
const NOT_YET: &str = "has not started yet";
/// The ring for sending, the second one to be enabled.
const RING: u32 = 1;

/// The sockets that the gate uses.
#[derive(Clone)]
pub struct Paths {
    /// The monitor's socket, which QEMU will create.
    pub monitor: PathBuf,
    /// The hybrid socket, where the backend listens.
    pub uds: PathBuf,
    /// The path of the backend's socket until the gate opens, on the same file system.
    pub aside: PathBuf,
}

/// The gate of one guest. It stays closed when this is dropped before the device runs.
pub struct Gate {
    state: Arc<State>,
    threads: Vec<JoinHandle<()>>,
}

struct State {
    paths: Paths,
    /// Listens at the hybrid socket's path while the gate is closed.
    early: UnixListener,
    stopped: AtomicBool,
    trouble: OnceLock<Error>,
}

impl Gate {
    /// Moves the backend's socket aside, and refuses clients in its place until the device runs.
    ///
    /// # Errors
    /// When a socket cannot be moved or created.
    pub fn start(paths: Paths) -> Result<Self> {
        fs::rename(&paths.uds, &paths.aside).doing("moving aside", &paths.uds)?;
        let early = UnixListener::bind(&paths.uds).doing("listening at", &paths.uds)?;
        let state = State { paths, early, stopped: AtomicBool::new(false), trouble: OnceLock::new() };
        let mut gate = Self { state: Arc::new(state), threads: Vec::new() };
        for work in [State::refuse, State::open] {
            let state = gate.state.clone();
            gate.threads.push(thread::spawn(move || work(&state)));
        }
        Ok(gate)
    }

    /// Why the gate stays closed, after a failure.
    pub fn trouble(&self) -> Option<&Error> {
        self.state.trouble.get()
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.state.stopped.store(true, Ordering::Relaxed);
        self.state.end_refusing();
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

impl State {
    /// Closes each connection without an answer, which means in the hybrid protocol that no program listens.
    fn refuse(&self) {
        while self.early.accept().is_ok() {}
    }

    /// Ends [`State::refuse`].
    fn end_refusing(&self) {
        let _ = shutdown(self.early.as_raw_fd(), Shutdown::Both);
    }

    /// Waits for the device, then gives the path of the hybrid socket back to the backend in one step.
    fn open(&self) {
        let opened = match self.wait() {
            Ok(true) => {
                fs::rename(&self.paths.aside, &self.paths.uds).doing("moving back", &self.paths.aside)
            }
            other => other.map(drop),
        };
        match opened {
            Ok(()) => self.end_refusing(),
            Err(error) => _ = self.trouble.set(error),
        }
    }

    /// Waits until the device runs. Returns false when the gate was dropped before.
    fn wait(&self) -> Result<bool> {
        let monitor = &self.paths.monitor;
        let mut qmp = None;
        while !self.stopped.load(Ordering::Relaxed) {
            match &mut qmp {
                None => match UnixStream::connect(monitor) {
                    Ok(stream) => qmp = Some(greet(stream)?),
                    Err(error)
                        if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused) => {}
                    Err(error) => return Err(error).doing("connecting to QEMU's monitor at", monitor),
                },
                Some(qmp) => {
                    match qmp.attempt(COMMAND, &json!({ "path": VSOCK_PATH, "queue": RING }), ANSWER)? {
                        Ok(_) => return Ok(true),
                        Err(reason) if reason.ends_with(NOT_YET) => {}
                        Err(reason) => return Err(qmp::refused(COMMAND, &reason)),
                    }
                }
            }
            thread::sleep(POLL);
        }
        Ok(false)
    }
}

fn greet(stream: UnixStream) -> Result<Qmp> {
    let qmp = Qmp::new(stream, ANSWER)?;
    let (major, minor) = qmp.version();
    if (major, minor) < OLDEST {
        let message = format!(
            "QEMU {major}.{minor} cannot report when its vsock device runs (expected QEMU {}.{} or later)",
            OLDEST.0, OLDEST.1
        );
        return Err(Error::new(message));
    }
    Ok(qmp)
}

#[cfg(test)]
mod tests;
