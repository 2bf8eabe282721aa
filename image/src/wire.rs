//! Frames on vsock: one request, one reply, bounded on both sides, versioned. What is followed (events, logs) is asked for
//! again and again, each time from where the last answer ended.
//!
//! Versions: a program of this release reads and writes every version from [`OLDEST`] to [`VERSION`]. Within these versions,
//! types change only by new variants at the end of an enum, so older frames are read with the types of today; for an older
//! reader, [`Reply::for_version`] replaces the variants that it does not know. A guest answers in the version of the request; a
//! host asks in the newest one, and again in the guest's if the guest refuses that.
//!
//! A frame is 12 bytes of header and a payload: magic `gpui`, version (u16 LE), reserved (u16, 0), payload length
//! (u32 LE), then the payload in bincode 2 (standard configuration). bincode is used nowhere but here, so that a
//! successor can replace it with a version step.

use crate::event::{Events, Happening, LogSource, Logs};
use crate::session::Exec;
use crate::status::{Code, Outcome, Phase, PhaseOutcome, Status};
use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::io::{self, Read, Write};

/// Newest version of the frames and of what is in them.
pub const VERSION: u16 = 8;
/// Oldest version that this release speaks.
pub const OLDEST: u16 = 7;
/// Port the guest listens on unless told otherwise.
pub const DEFAULT_PORT: u32 = 1042;
/// Largest request, payload bytes.
pub const MAX_REQUEST: usize = 64 << 10;
/// Largest reply, payload bytes.
pub const MAX_REPLY: usize = 1 << 20;
const MAGIC: &[u8; 4] = b"gpui";
const HEADER: usize = 12;

/// Signals that [`Request::Stop`] can send.
pub const STOP_SIGNALS: [Signal; 7] = [
    Signal::SIGTERM,
    Signal::SIGINT,
    Signal::SIGHUP,
    Signal::SIGQUIT,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGKILL,
];

/// Returns the names of [`STOP_SIGNALS`], without `SIG`.
pub fn stop_signal_names() -> String {
    STOP_SIGNALS.map(|signal| signal.as_str().trim_start_matches("SIG")).join(", ")
}

/// What the host asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// The status now.
    Status,
    /// The status once `until` is reached, cannot be reached any more, or `timeout_ms` is over.
    Wait {
        /// What to wait for.
        until: Until,
        /// Deadline in milliseconds.
        timeout_ms: u64,
    },
    /// What has happened, from a number on. Waits until there is something, or the time is over.
    Events {
        /// The number of the first event that is wanted: 0, or what [`Events::next`] said.
        from: u64,
        /// Longest wait in milliseconds; 0: none.
        timeout_ms: u64,
    },
    /// Lines of a log, from a number on. Waits until there is something, or the time is over.
    Logs {
        /// Whose.
        source: LogSource,
        /// The number of the first line that is wanted: 0, or what [`Logs::next`] said.
        from: u64,
        /// Longest wait in milliseconds; 0: none.
        timeout_ms: u64,
    },
    /// Stop the guest: the program receives the signal, and what still runs after the grace period is killed. Repeated, it can
    /// shorten the period. The reply is the status. Since version 8.
    Stop {
        /// Number of the signal.
        signal: i32,
        /// The grace period in milliseconds; `None`: the guest's own.
        grace_ms: Option<u64>,
    },
    /// Run a command in the container, or copy its files. The reply is [`Reply::Session`] or [`Reply::NotStarted`], and the
    /// connection then belongs to the session. Since version 8.
    Exec(Box<Exec>),
}

impl Request {
    /// Returns the first version of the protocol that has this request.
    pub fn since(&self) -> u16 {
        match self {
            Self::Status | Self::Wait { .. } | Self::Events { .. } | Self::Logs { .. } => OLDEST,
            Self::Stop { .. } | Self::Exec(_) => 8,
        }
    }

    /// Returns the name of the request.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Status => "status",
            Self::Wait { .. } => "wait",
            Self::Events { .. } => "events",
            Self::Logs { .. } => "logs",
            Self::Stop { .. } => "stop",
            Self::Exec(_) => "exec",
        }
    }
}

/// What [`Request::Wait`] waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Until {
    /// The boot has an outcome.
    Ready,
    /// The program has ended.
    Exited,
    /// This phase is over; [`Phase::Running`], [`Phase::Stopping`] and [`Phase::Exited`]: it has begun.
    Phase(Phase),
}

impl Until {
    /// Whether it has come (`true`) or can come no more (`false`); `None` while that is open.
    pub fn decided(self, status: &Status) -> Option<bool> {
        let ended = status.phase == Phase::Exited || status.outcome == Outcome::Failed;
        let reached = match self {
            Self::Ready => status.outcome == Outcome::Ready,
            Self::Exited => status.phase == Phase::Exited,
            Self::Phase(phase @ (Phase::Running | Phase::Stopping | Phase::Exited)) => status.phase >= phase,
            Self::Phase(phase) => {
                let time = status.phases.iter().find(|time| time.phase == phase);
                match time.map(|time| time.outcome) {
                    Some(PhaseOutcome::Done | PhaseOutcome::Skipped) => true,
                    Some(PhaseOutcome::Failed) => return Some(false),
                    // A phase that this boot had no need for.
                    None => status.phase > phase && status.outcome == Outcome::Ready,
                    Some(PhaseOutcome::Running) => false,
                }
            }
        };
        if reached { Some(true) } else { ended.then_some(false) }
    }
}

/// What the guest answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    /// The status.
    Status(Box<Status>),
    /// The request was not understood, or cannot be served now. Keeps its place and form in every version.
    Refused(String),
    /// Events; none when nothing happened within the time given.
    Events(Events),
    /// Lines of a log; none when nothing was written within the time given.
    Logs(Logs),
    /// The command runs; the connection belongs to its session. Since version 8.
    Session,
    /// The command does not run. Since version 8.
    NotStarted {
        /// Why.
        message: String,
        /// Exit status as in a shell: 127 if the program was not found, 126 if it cannot be executed, 125 otherwise.
        exit_status: u8,
    },
}

/// What can go wrong with a frame.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// The connection failed or ended early.
    #[error("the connection failed: {0}")]
    Io(#[from] io::Error),
    /// Not our magic.
    #[error("not the gpu-initrd protocol: expected frames that begin with `gpui`, found {found:02x?}")]
    Magic {
        /// The first four bytes.
        found: [u8; 4],
    },
    /// Another version.
    #[error(
        "the peer speaks protocol version {found}, this program speaks versions {OLDEST} to {VERSION}; use host-builder and initrd of releases that have one in common"
    )]
    Version {
        /// The peer's version.
        found: u16,
    },
    /// Larger than the bound.
    #[error("frame too large: found {found} bytes (expected at most {most})")]
    TooLarge {
        /// Its size.
        found: usize,
        /// The bound.
        most: usize,
    },
    /// The payload is not what it should be.
    #[error("the frame's payload is malformed: {0}")]
    Malformed(String),
}

impl Reply {
    /// Returns the reply for a reader of an older version, without what that version does not have.
    #[must_use]
    pub fn for_version(mut self, version: u16) -> Self {
        if version < 8 {
            match &mut self {
                Self::Status(status) => status_before_8(status),
                Self::Events(events) => events.events.retain_mut(|event| is_before_8(&mut event.what)),
                Self::Refused(_) | Self::Logs(_) | Self::Session | Self::NotStarted { .. } => {}
            }
        }
        self
    }

    /// Returns the oldest version that has everything in this reply.
    pub fn oldest_version(&self) -> u16 {
        if matches!(self, Self::Session | Self::NotStarted { .. }) {
            return 8;
        }
        let is_whole = |version: &u16| self.clone().for_version(*version) == *self;
        (OLDEST..VERSION).find(is_whole).unwrap_or(VERSION)
    }
}

/// Number of codes of findings in version 7.
const CODES_7: usize = Code::DriverFileMissing as usize + 1;

fn code_before_8(code: &mut Code) {
    if *code as usize >= CODES_7 {
        *code = Code::Internal;
    }
}

fn status_before_8(status: &mut Status) {
    if status.phase == Phase::Stopping {
        status.phase = Phase::Running;
    }
    status.phases.retain(|time| time.phase != Phase::Stopping);
    status.findings.iter_mut().for_each(|finding| code_before_8(&mut finding.code));
}

/// Whether version 7 can express it, after a change of what it can express otherwise.
fn is_before_8(what: &mut Happening) -> bool {
    match what {
        Happening::Stop { .. }
        | Happening::SessionStarted { .. }
        | Happening::SessionEnded { .. }
        | Happening::Phase { phase: Phase::Stopping, .. } => false,
        Happening::Finding { code, .. } => {
            code_before_8(code);
            true
        }
        _ => true,
    }
}

/// Writes one frame in the newest version.
pub fn write<T: Serialize>(out: &mut impl Write, message: &T, most: usize) -> Result<(), WireError> {
    write_as(out, message, most, VERSION)
}

/// Writes one frame in a version that has this message ([`Request::since`], [`Reply::for_version`]).
pub fn write_as<T: Serialize>(
    out: &mut impl Write,
    message: &T,
    most: usize,
    version: u16,
) -> Result<(), WireError> {
    let payload = bincode::serde::encode_to_vec(message, bincode::config::standard())
        .map_err(|error| WireError::Malformed(error.to_string()))?;
    if payload.len() > most {
        return Err(WireError::TooLarge { found: payload.len(), most });
    }
    let length = u32::try_from(payload.len()).expect("bounded above");
    let mut frame = Vec::with_capacity(HEADER + payload.len());
    frame.extend_from_slice(MAGIC);
    frame.extend_from_slice(&version.to_le_bytes());
    frame.extend_from_slice(&[0, 0]);
    frame.extend_from_slice(&length.to_le_bytes());
    frame.extend_from_slice(&payload);
    out.write_all(&frame)?;
    out.flush()?;
    Ok(())
}

/// Reads one frame of at most `most` payload bytes.
pub fn read<T: DeserializeOwned>(input: &mut impl Read, most: usize) -> Result<T, WireError> {
    read_versioned(input, most).map(|(message, _)| message)
}

/// [`read`], with the version of the frame.
pub fn read_versioned<T: DeserializeOwned>(
    input: &mut impl Read,
    most: usize,
) -> Result<(T, u16), WireError> {
    let mut header = [0; HEADER];
    input.read_exact(&mut header)?;
    let magic = [header[0], header[1], header[2], header[3]];
    if &magic != MAGIC {
        return Err(WireError::Magic { found: magic });
    }
    let version = u16::from_le_bytes([header[4], header[5]]);
    if !(OLDEST..=VERSION).contains(&version) {
        return Err(WireError::Version { found: version });
    }
    let length = u32::from_le_bytes([header[8], header[9], header[10], header[11]]) as usize;
    if length > most {
        return Err(WireError::TooLarge { found: length, most });
    }
    let mut payload = vec![0; length];
    input.read_exact(&mut payload)?;
    Ok((decode(&payload)?, version))
}

/// Decodes frames from bytes that arrive in pieces.
#[derive(Debug, Default)]
pub struct Decoder {
    bytes: Vec<u8>,
}

impl Decoder {
    /// Adds bytes.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Returns the next frame of at most `most` payload bytes, if it is complete.
    pub fn next<T: DeserializeOwned>(&mut self, most: usize) -> Result<Option<T>, WireError> {
        let mut rest = self.bytes.as_slice();
        match read(&mut rest, most) {
            Ok(message) => {
                let used = self.bytes.len() - rest.len();
                self.bytes.drain(..used);
                Ok(Some(message))
            }
            Err(WireError::Io(error)) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
            Err(error) => Err(error),
        }
    }
}

fn decode<T: DeserializeOwned>(payload: &[u8]) -> Result<T, WireError> {
    // The limit bounds what a lying length inside the payload can make us allocate.
    let config = bincode::config::standard().with_limit::<MAX_REPLY>();
    let (message, used) = bincode::serde::decode_from_slice(payload, config)
        .map_err(|error| WireError::Malformed(error.to_string()))?;
    if used != payload.len() {
        return Err(WireError::Malformed(format!("{} unexpected bytes at the end", payload.len() - used)));
    }
    Ok(message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(request: &Request) -> Vec<u8> {
        let mut bytes = Vec::new();
        write(&mut bytes, request, MAX_REQUEST).unwrap();
        bytes
    }

    #[test]
    fn a_frame_is_magic_version_zeros_length_and_payload() {
        assert_eq!(frame(&Request::Status), *b"gpui\x08\0\0\0\x01\0\0\0\0");
    }

    #[test]
    fn a_wait_ends_when_the_answer_is_known_to_be_no() {
        use crate::status::PhaseTime;
        let mut status = Status { phase: Phase::Gpu, ..Status::default() };
        let all = [Until::Ready, Until::Exited, Until::Phase(Phase::Gpu), Until::Phase(Phase::Root)];
        let decided = |status: &Status| all.map(|until| until.decided(status));
        assert_eq!(decided(&status), [None; 4]);
        let time = |phase, outcome| PhaseTime { phase, start_ms: 0, end_ms: None, outcome, progress: None };
        status.phases = vec![time(Phase::Root, PhaseOutcome::Running), time(Phase::Gpu, PhaseOutcome::Done)];
        assert_eq!(decided(&status), [None, None, Some(true), None]);
        status.phases[0].outcome = PhaseOutcome::Failed;
        assert_eq!(decided(&status), [None, None, Some(true), Some(false)]);
        status.outcome = Outcome::Failed;
        assert_eq!(decided(&status), [Some(false), Some(false), Some(true), Some(false)]);
        let mut status = Status { phase: Phase::Running, outcome: Outcome::Ready, ..Status::default() };
        assert_eq!(decided(&status), [Some(true), None, Some(true), Some(true)]);
        assert_eq!(Until::Phase(Phase::Exited).decided(&status), None);
        status.phase = Phase::Exited;
        assert_eq!(decided(&status), [Some(true); 4]);
    }

    #[test]
    fn each_defect_has_its_own_error() {
        let good = frame(&Request::Status);
        let with = |index: usize, byte: u8| {
            let mut bytes = good.clone();
            bytes[index] = byte;
            read::<Request>(&mut &bytes[..], MAX_REQUEST).unwrap_err()
        };
        assert!(matches!(with(0, b'H'), WireError::Magic { .. }));
        assert!(matches!(with(4, 9), WireError::Version { found: 9 }));
        assert!(matches!(with(11, 0xff), WireError::TooLarge { .. }));
        assert!(matches!(with(12, 0x55), WireError::Malformed(_)));
        assert!(matches!(with(8, 2), WireError::Io(_)));
    }

    #[test]
    fn frames_are_decoded_wherever_they_are_cut() {
        let requests = [Request::Status, Request::Stop { signal: 15, grace_ms: Some(1) }, Request::Status];
        let bytes: Vec<u8> = requests.iter().flat_map(frame).collect();
        for size in [1, 5, 13, bytes.len()] {
            let (mut decoder, mut found) = (Decoder::default(), Vec::new());
            for piece in bytes.chunks(size) {
                decoder.feed(piece);
                while let Some(request) = decoder.next::<Request>(MAX_REQUEST).unwrap() {
                    found.push(request);
                }
            }
            assert_eq!(found, requests, "{size}");
        }
        let mut decoder = Decoder::default();
        decoder.feed(b"gpux");
        assert!(decoder.next::<Request>(MAX_REQUEST).unwrap().is_none(), "the header is not complete");
        decoder.feed(&[0; 8]);
        assert!(matches!(decoder.next::<Request>(MAX_REQUEST), Err(WireError::Magic { .. })));
    }

    #[test]
    fn a_huge_length_inside_the_payload_allocates_nothing() {
        // Reply::Refused with a string that claims 2^62 bytes.
        let payload = [1, 0xfd, 0, 0, 0, 0, 0, 0, 0, 0x40];
        assert!(matches!(decode::<Reply>(&payload), Err(WireError::Malformed(_))));
    }
}
