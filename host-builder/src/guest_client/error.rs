//! Why a guest could not be queried, or its answer could not be used.

use crate::common::error::Error;
use image::wire::WireError;
use nix::errno::Errno;
use std::fmt;
use std::io;
use std::time::Duration;

/// The step that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Connecting to the socket.
    Connect,
    /// `CONNECT`, and the `OK` that answers it.
    Handshake,
    /// Sending the request.
    Request,
    /// Receiving the reply.
    Reply,
}

impl fmt::Display for Step {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Connect => "connecting",
            Self::Handshake => "waiting for the answer to CONNECT",
            Self::Request => "sending the request",
            Self::Reply => "waiting for the reply",
        })
    }
}

/// Why there is no status.
#[derive(Debug, thiserror::Error)]
pub enum QueryError {
    /// There is nothing to connect to.
    #[error("no socket: {what}")]
    NoSocket {
        /// Path or CID.
        what: String,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The guest, or its vsock device, exists, but no program listens.
    #[error("the guest is not listening on port {port} (yet)")]
    NotListening {
        /// The port.
        port: u32,
    },
    /// A deadline has passed.
    #[error("timed out after {:.1} s while {step}", after.as_secs_f64())]
    TimedOut {
        /// What was under way.
        step: Step,
        /// How long it was given.
        after: Duration,
    },
    /// Waiting ended without an answer; the last attempt says why.
    #[error("gave up after {:.1} s", after.as_secs_f64())]
    GaveUp {
        /// How long it was tried.
        after: Duration,
        /// The last attempt.
        #[source]
        last: Box<QueryError>,
    },
    /// The peer speaks another protocol.
    #[error("not our protocol: {what}")]
    NotOurProtocol {
        /// Expected and found.
        what: String,
    },
    /// guest-init of another release.
    #[error(
        "other version: the guest speaks protocol version {found}, this program speaks {} to {}",
        image::wire::OLDEST,
        image::wire::VERSION
    )]
    OtherVersion {
        /// The guest's version.
        found: u16,
    },
    /// The reply is larger than the limit.
    #[error("the reply is too large: {found} bytes (expected at most {most})")]
    TooLarge {
        /// What the guest announced.
        found: usize,
        /// The bound.
        most: usize,
    },
    /// The payload of the reply is malformed.
    #[error("malformed reply: {what}")]
    Malformed {
        /// The error of the decoder.
        what: String,
    },
    /// The connection was closed early.
    #[error("the guest closed the connection while {step}")]
    Closed {
        /// What was under way.
        step: Step,
    },
    /// The guest is of an older release, which does not have the request.
    #[error("the guest speaks protocol version {found}, which does not have the request {name}")]
    UnknownRequest {
        /// The request.
        name: &'static str,
        /// The guest's version.
        found: u16,
    },
    /// The guest did not understand the request, or does not accept it.
    #[error("the guest refused the request: {reason}")]
    Refused {
        /// Its reason, cleaned.
        reason: String,
    },
    /// The output of the guest did not end.
    #[error("the guest sent data for more than {:.1} s", after.as_secs_f64())]
    Endless {
        /// How long it was given.
        after: Duration,
    },
    /// Another failure of the socket.
    #[error("failed while {step}")]
    Io {
        /// What was under way.
        step: Step,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
}

impl QueryError {
    /// A failed read or write.
    pub(super) fn io(step: Step, allowed: Duration, source: io::Error) -> Self {
        use io::ErrorKind as Kind;
        match source.kind() {
            Kind::TimedOut => Self::TimedOut { step, after: allowed },
            Kind::UnexpectedEof | Kind::ConnectionReset | Kind::BrokenPipe | Kind::WriteZero => {
                Self::Closed { step }
            }
            _ => Self::Io { step, source },
        }
    }

    /// A frame that is missing or malformed.
    pub(super) fn wire(step: Step, allowed: Duration, error: WireError) -> Self {
        match error {
            WireError::Io(source) => Self::io(step, allowed, source),
            WireError::Magic { found } => Self::NotOurProtocol {
                what: format!("expected a frame that begins with \"gpui\", found {}", found.escape_ascii()),
            },
            WireError::Version { found } => Self::OtherVersion { found },
            WireError::TooLarge { found, most } => Self::TooLarge { found, most },
            WireError::Malformed(what) => Self::Malformed { what: crate::common::clean::clean(&what, 200) },
        }
    }

    /// A reply of another kind than requested.
    pub(super) fn another_question() -> Self {
        Self::Malformed { what: "the answer to another request".into() }
    }

    /// Its stable name in JSON.
    pub fn name(&self) -> &'static str {
        match self {
            Self::NoSocket { .. } => "no-socket",
            Self::NotListening { .. } => "not-listening",
            Self::TimedOut { .. } => "timed-out",
            Self::GaveUp { .. } => "gave-up",
            Self::NotOurProtocol { .. } => "not-our-protocol",
            Self::OtherVersion { .. } => "other-version",
            Self::TooLarge { .. } => "too-large",
            Self::Malformed { .. } => "malformed",
            Self::Closed { .. } => "closed",
            Self::UnknownRequest { .. } => "unknown-request",
            Self::Refused { .. } => "refused",
            Self::Endless { .. } => "endless",
            Self::Io { .. } => "io",
        }
    }

    /// The message with the messages of all its sources.
    pub fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut next = std::error::Error::source(self);
        while let Some(error) = next {
            text = format!("{text}: {error}");
            next = error.source();
        }
        text
    }

    /// Whether the guest answered with something invalid.
    pub fn is_nonsense(&self) -> bool {
        matches!(
            self,
            Self::NotOurProtocol { .. }
                | Self::OtherVersion { .. }
                | Self::TooLarge { .. }
                | Self::Malformed { .. }
        )
    }

    /// Whether the error may be temporary: there is no socket yet, no listener yet, or the vsock
    /// device has no driver yet and drops connections.
    pub fn is_passing(&self) -> bool {
        match self {
            Self::NoSocket { source, .. } => !is_final(source),
            Self::NotListening { .. } => true,
            Self::TimedOut { step, .. } | Self::Closed { step } => {
                matches!(step, Step::Connect | Step::Handshake)
            }
            _ => false,
        }
    }

    /// What to do.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::NoSocket { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                "run this command as the user who started the guest"
            }
            Self::NoSocket { source, .. } if is_errno(source, &[Errno::ENAMETOOLONG]) => {
                "use a shorter path (a socket path has at most 107 bytes): change to a directory near the socket, or use a symbolic link"
            }
            Self::NoSocket { source, .. } if is_errno(source, &NO_VSOCK) => {
                "use a kernel with AF_VSOCK (modprobe vhost_vsock), or the guest's hybrid socket: unix:PATH"
            }
            Self::NoSocket { .. } => {
                "start the guest, or pass its socket or CID; use --wait ready to wait for it"
            }
            Self::NotListening { .. } => {
                "wait for the guest with --wait ready (it answers about a second after its kernel starts); else compare the port \
                 with gpu_initrd.vsock_port, and look at the guest's console"
            }
            Self::TimedOut { .. } => {
                "check the guest's console: is the guest alive, and does it have a vsock device? increase the time with --timeout"
            }
            Self::GaveUp { last, .. } => last.hint(),
            Self::NotOurProtocol { .. } => {
                "check that this is the vsock socket and the port of a guest with an initrd of this tool"
            }
            Self::UnknownRequest { .. } => {
                "rebuild the guest's initrd with this release, or stop the guest with its VMM"
            }
            Self::OtherVersion { .. } => "use the host-builder of the release that built the guest's initrd",
            Self::Refused { .. } => {
                "correct what the guest names; a guest accepts requests according to gpu_initrd.control"
            }
            Self::TooLarge { .. } | Self::Malformed { .. } => {
                "use host-builder and initrd of the same release; if they are, do not trust this guest"
            }
            Self::Endless { .. } => {
                "use --follow to show the data as it arrives, or increase the time with --timeout"
            }
            Self::Closed { .. } => "check the guest's console: the guest has ended or is shutting down",
            Self::Io { .. } => "check the guest's console, and try again",
        }
    }
}

/// The error of a kernel without the address family.
const NO_VSOCK: [Errno; 3] = [Errno::EAFNOSUPPORT, Errno::EPROTONOSUPPORT, Errno::ESOCKTNOSUPPORT];

/// Whether waiting cannot help, because no socket of this name can be reached.
fn is_final(source: &io::Error) -> bool {
    source.kind() == io::ErrorKind::PermissionDenied
        || is_errno(source, &NO_VSOCK)
        || is_errno(source, &[Errno::ENAMETOOLONG, Errno::ELOOP, Errno::EPROTOTYPE])
}

fn is_errno(source: &io::Error, among: &[Errno]) -> bool {
    source.raw_os_error().is_some_and(|code| among.contains(&Errno::from_raw(code)))
}

impl From<QueryError> for Error {
    fn from(error: QueryError) -> Self {
        let hint = error.hint();
        Error::new("could not query the guest").hint(hint).source(error)
    }
}
