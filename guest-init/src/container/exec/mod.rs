//! Commands of the host in the running container, and copies of its files.
//!
//! The container's root is hostile, so this program's PID 1 never enters it. It executes this program again, as for the
//! container itself: that process forks a child into the container's PID namespace and waits for it (`stage`). The child enters
//! the container's control group, its other namespaces and its root, and becomes the command, or copies (`send`, `receive`).
//! Several pipes lead there: the specification, the result of the start, the exit status, signals, and the streams of the command.

mod receive;
mod send;
mod stage;
mod start;

pub use stage::run as run_stage;
pub use start::{Process, start};

use super::namespace::ContainerKind;
use super::{ContainerError, Spec};
use crate::locks::Lock;
use nix::unistd::Pid;
use std::fs::File;
use std::io;
use std::os::fd::{FromRawFd, OwnedFd};
use std::sync::Arc;

/// First argument of the process that enters the container.
pub const STAGE: &str = "--exec-stage";

/// The way into the running container; clones refer to the same one. Closed while no program runs.
#[derive(Clone, Default)]
pub struct Entrance(Arc<Lock<Option<Arc<Inside>>>>);

/// A running container.
pub struct Inside {
    /// The number of its PID 1 in this namespace.
    first: Pid,
    /// Its PID 1, whatever later becomes of the number.
    process: OwnedFd,
    /// The root of its PID 1.
    root: File,
    spec: Spec,
    kind: ContainerKind,
}

impl Entrance {
    /// Opens the way into the container whose PID 1 is `first`, which this process has not reaped yet.
    pub fn open(&self, first: Pid, spec: &Spec) {
        self.lead_to(first, spec, ContainerKind::Program);
    }

    /// Opens the way into a guest whose PID 1 is the image's init.
    pub fn open_init(&self, spec: &Spec) {
        self.lead_to(Pid::from_raw(1), spec, ContainerKind::Init);
    }

    fn lead_to(&self, first: Pid, spec: &Spec, kind: ContainerKind) {
        let inside = pidfd(first)
            .and_then(|process| Ok((process, File::open(format!("/proc/{first}/root"))?)))
            .map(|(process, root)| Inside { first, process, root, spec: spec.clone(), kind });
        match inside {
            Ok(inside) => self.set(Some(inside)),
            Err(error) => log::warn!("exec is not available: cannot open the container's PID 1: {error}"),
        }
    }

    /// Closes the way: the container has ended.
    pub fn close(&self) {
        self.set(None);
    }

    fn set(&self, inside: Option<Inside>) {
        *self.0.lock() = inside.map(Arc::new);
    }

    /// Returns the running container.
    ///
    /// # Errors
    /// If none runs.
    pub fn inside(&self) -> Result<Arc<Inside>, ContainerError> {
        let inside = self.0.lock().clone();
        inside.ok_or_else(|| ContainerError::internal("the container's program does not run"))
    }
}

/// Opens a process by its number (`pidfd_open(2)`, Linux 5.3).
fn pidfd(process: Pid) -> io::Result<OwnedFd> {
    // SAFETY: pidfd_open(2) takes two integers.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, process.as_raw(), 0) };
    let fd = nix::Error::result(fd)?;
    // SAFETY: the call has just returned this descriptor, which nothing else owns. Descriptors are small integers.
    #[allow(clippy::cast_possible_truncation, reason = "descriptors are small integers")]
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}
