//! A relay in front of the vsock backend. vhost-device-vsock 0.3.0 loses its worker, and with it the guest's vsock, if a
//! client connects while QEMU sets up the guest's memory and rings: a ring that is not ready is an error that ends its
//! event loop. So the relay passes messages between QEMU and the daemon. Until both rings run, it refuses connections to
//! the hybrid socket in the same way as a guest without a listener.
//!
//! The messages follow the vhost-user protocol of QEMU's documentation (interop/vhost-user). They are not changed.

use std::fs;
use std::io::{self, ErrorKind, IoSlice, IoSliceMut, PipeReader, PipeWriter, Read, Write};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};

const GET_FEATURES: u32 = 1;
const SET_FEATURES: u32 = 2;
const SET_VRING_KICK: u32 = 12;
const SET_VRING_ENABLE: u32 = 18;
/// In the features: rings begin disabled, and run once they are enabled. Without it they run from their first kick on.
const PROTOCOL_FEATURES: u64 = 1 << 30;
/// Header flags of a request: version 1, nothing else.
const VERSION: u32 = 1;
const HEADER: usize = 12;
/// No message of the protocol comes near it, bytes.
const MAX_PAYLOAD: usize = 64 << 10;
/// Descriptors that one message can bring: eight regions of memory.
const MAX_FDS: usize = 8;
/// Bits of the rings for receiving and sending.
const BOTH: u64 = 0b11;

/// Where everything is.
pub struct Paths<'a> {
    /// Where QEMU will connect.
    pub front: &'a Path,
    /// The daemon's vhost-user socket.
    pub back: &'a Path,
    /// The hybrid socket, where the daemon listens already.
    pub uds: &'a Path,
    /// Where the hybrid socket waits meanwhile, on the same file system.
    pub aside: &'a Path,
}

/// The relay between QEMU and the daemon. It ends with either of them, and when this is dropped.
pub struct Gate {
    stop: Option<PipeWriter>,
    thread: Option<JoinHandle<()>>,
    trouble: Arc<OnceLock<io::Error>>,
}

impl Gate {
    /// Takes the daemon's place at the hybrid socket, and listens for QEMU.
    ///
    /// # Errors
    /// When a socket cannot be made or moved.
    pub fn start(paths: &Paths) -> io::Result<Self> {
        fs::rename(paths.uds, paths.aside)?;
        let early = UnixListener::bind(paths.uds)?;
        let front = UnixListener::bind(paths.front)?;
        let (stopped, stop) = io::pipe()?;
        let door = Door { early, aside: paths.aside.to_owned(), uds: paths.uds.to_owned() };
        let back = paths.back.to_owned();
        let trouble = Arc::new(OnceLock::new());
        let told = trouble.clone();
        let thread = std::thread::Builder::new().name("vsock-gate".into()).spawn(move || {
            if let Err(error) = relay(&stopped, &front, &back, door) {
                let _ = told.set(error);
            }
        })?;
        Ok(Self { stop: Some(stop), thread: Some(thread), trouble })
    }

    /// Why QEMU and the daemon do not speak any more, if it was neither's end.
    pub fn trouble(&self) -> Option<&io::Error> {
        self.trouble.get()
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The hybrid socket while the daemon must not be reached.
struct Door {
    early: UnixListener,
    aside: PathBuf,
    uds: PathBuf,
}

impl Door {
    /// Closed without a word, as the hybrid protocol says that nobody listens.
    fn turn_away(&self) {
        drop(self.early.accept());
    }

    /// The daemon's socket takes the place of ours in one step.
    fn open(self) -> io::Result<()> {
        fs::rename(&self.aside, &self.uds)
    }
}

/// Waits for QEMU, then passes messages on until one side ends, or everything does.
fn relay(stopped: &PipeReader, front: &UnixListener, back: &Path, door: Door) -> io::Result<()> {
    loop {
        let [is_over, early, came] = readable([stopped.as_fd(), door.early.as_fd(), front.as_fd()])?;
        if is_over {
            return Ok(());
        }
        if early {
            door.turn_away();
        }
        if came {
            break;
        }
    }
    let (qemu, daemon) = (front.accept()?.0, UnixStream::connect(back)?);
    match pass_on(stopped, &qemu, &daemon, door) {
        // One of them was killed in the middle of a word.
        Err(error) if matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset) => Ok(()),
        result => result,
    }
}

fn pass_on(stopped: &PipeReader, qemu: &UnixStream, daemon: &UnixStream, door: Door) -> io::Result<()> {
    let mut rings = Rings::default();
    let mut door = Some(door);
    loop {
        // An open door needs no look.
        let early = door.as_ref().map_or(stopped.as_fd(), |door| door.early.as_fd());
        let [is_over, early, asks, answers] =
            readable([stopped.as_fd(), early, qemu.as_fd(), daemon.as_fd()])?;
        if is_over {
            return Ok(());
        }
        if let Some(door) = door.as_ref().filter(|_| early) {
            door.turn_away();
        }
        if asks {
            let Some(message) = Message::receive(qemu)? else { return Ok(()) };
            message.send(daemon)?;
            if rings.take(&message) {
                // Only an answer to something after it tells that the daemon has done it.
                Message::request(GET_FEATURES).send(daemon)?;
            }
        }
        if answers {
            let Some(message) = Message::receive(daemon)? else { return Ok(()) };
            if rings.is_ours(&message) {
                if let Some(door) = door.take() {
                    door.open()?;
                }
            } else {
                message.send(qemu)?;
            }
        }
    }
}

/// Which of these have something to read, or have ended.
fn readable<const N: usize>(fds: [std::os::fd::BorrowedFd; N]) -> io::Result<[bool; N]> {
    let mut fds = fds.map(|fd| PollFd::new(fd, PollFlags::POLLIN));
    match poll(&mut fds, PollTimeout::NONE) {
        Ok(_) => Ok(fds.map(|fd| fd.any().unwrap_or(true))),
        Err(nix::errno::Errno::EINTR) => Ok([false; N]),
        Err(errno) => Err(errno.into()),
    }
}

/// How far the rings are.
#[derive(Default)]
struct Rings {
    features: u64,
    running: u64,
    question: Question,
}

#[derive(Default, PartialEq)]
enum Question {
    #[default]
    NotYet,
    Asked,
    Answered,
}

impl Rings {
    /// Looks at a request of QEMU's. True, once: both rings run when the daemon has done this.
    fn take(&mut self, message: &Message) -> bool {
        let is_enabled = self.features & PROTOCOL_FEATURES == 0;
        match message.kind {
            SET_FEATURES => self.features = message.number(0..8),
            SET_VRING_KICK if is_enabled => self.running |= 1 << (message.number(0..1) & 1),
            SET_VRING_ENABLE if message.number(4..8) == 1 => self.running |= 1 << (message.number(0..4) & 1),
            _ => {}
        }
        let is_new = self.running == BOTH && self.question == Question::NotYet;
        if is_new {
            self.question = Question::Asked;
        }
        is_new
    }

    /// Whether this is the answer to our question. QEMU waits for each of its own answers, so none of that kind is on its way.
    fn is_ours(&mut self, message: &Message) -> bool {
        let is_ours = message.kind == GET_FEATURES && self.question == Question::Asked;
        if is_ours {
            self.question = Question::Answered;
        }
        is_ours
    }
}

/// One message, with the descriptors that came with it.
struct Message {
    kind: u32,
    /// Header and payload.
    bytes: Vec<u8>,
    fds: Vec<OwnedFd>,
}

impl Message {
    /// A request without a payload.
    fn request(kind: u32) -> Self {
        let bytes = [kind, VERSION, 0].iter().flat_map(|word| word.to_le_bytes()).collect();
        Self { kind, bytes, fds: Vec::new() }
    }

    /// A little number in the payload; 0 where the payload is shorter.
    fn number(&self, at: std::ops::Range<usize>) -> u64 {
        let mut bytes = [0; 8];
        if let Some(found) = self.bytes.get(HEADER + at.start..HEADER + at.end) {
            bytes[..found.len()].copy_from_slice(found);
        }
        u64::from_le_bytes(bytes)
    }

    /// The next message; `None` at the end of the connection.
    fn receive(mut stream: &UnixStream) -> io::Result<Option<Self>> {
        let mut bytes = vec![0; HEADER];
        let (read, fds) = receive_some(stream, &mut bytes)?;
        if read == 0 {
            return Ok(None);
        }
        stream.read_exact(&mut bytes[read..])?;
        let word = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let (kind, length) = (word(0), word(8) as usize);
        if length > MAX_PAYLOAD {
            let message = format!(
                "vhost-user message {kind} claims {length} bytes, at most {MAX_PAYLOAD} are possible"
            );
            return Err(io::Error::new(ErrorKind::InvalidData, message));
        }
        bytes.resize(HEADER + length, 0);
        stream.read_exact(&mut bytes[HEADER..])?;
        Ok(Some(Self { kind, bytes, fds }))
    }

    fn send(&self, mut stream: &UnixStream) -> io::Result<()> {
        let fds: Vec<RawFd> = self.fds.iter().map(AsRawFd::as_raw_fd).collect();
        let rights = [ControlMessage::ScmRights(&fds)];
        let rights = if fds.is_empty() { &rights[..0] } else { &rights[..] };
        let all = [IoSlice::new(&self.bytes)];
        let sent = sendmsg::<()>(stream.as_raw_fd(), &all, rights, MsgFlags::MSG_NOSIGNAL, None)?;
        stream.write_all(&self.bytes[sent..])
    }
}

/// The beginning of a message, and the descriptors that came with it.
fn receive_some(stream: &UnixStream, buffer: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut space = nix::cmsg_space!([RawFd; MAX_FDS]);
    let mut parts = [IoSliceMut::new(buffer)];
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let received = recvmsg::<()>(stream.as_raw_fd(), &mut parts, Some(&mut space), flags)?;
    let mut fds = Vec::new();
    for message in received.cmsgs()? {
        if let ControlMessageOwned::ScmRights(numbers) = message {
            // SAFETY: the kernel has just made these descriptors for us, and nobody else knows their numbers.
            fds.extend(numbers.into_iter().map(|number| unsafe { OwnedFd::from_raw_fd(number) }));
        }
    }
    Ok((received.bytes, fds))
}

#[cfg(test)]
mod tests;
