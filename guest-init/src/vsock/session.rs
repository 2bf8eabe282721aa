//! A session on a connection: carries the streams of a command in the container, its signals, and its exit status.
//!
//! One thread serves a session. It never blocks on one side while the other could go on, and holds at most one window of input
//! and a few frames of output.

use super::connection::Pieces;
use super::server::send;
use crate::container::ContainerError;
use crate::container::exec::{self, Entrance, Process};
use crate::container::terminal::set_size;
use crate::status::limits::{clip, clip_lines};
use crate::status::{Board, helper};
use image::event::Happening;
use image::session::{Exec, MAX_DATA, MAX_FRAME, Task, ToGuest, ToHost, WINDOW};
use image::status::Exit;
use image::wire::{self, Decoder, Reply};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::fs::File;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use vsock::VsockStream;

/// Sessions at the same time.
const MAX_SESSIONS: usize = 8;
/// Bytes for the host above which no more output is read.
const MAX_PENDING: usize = 4 * MAX_DATA;
/// How long the last output is waited for, where another process keeps the stream of a command that has ended open.
const DRAIN: Duration = Duration::from_millis(500);
/// How long the end of a command is waited for that nobody waits for any longer.
const LEFT: Duration = Duration::from_secs(10);
/// How long the host may take to receive the end of a session.
const LAST: Duration = Duration::from_mins(1);
/// Exit of a command that could not report it: the container has ended.
const KILLED: Exit = Exit { code: None, signal: Some(libc::SIGKILL), oom: false };

static RUNNING: AtomicUsize = AtomicUsize::new(0);
static NEXT: AtomicU32 = AtomicU32::new(1);

/// One of a limited number of sessions.
struct Place;

impl Place {
    fn take() -> Option<Self> {
        let place = Self;
        (RUNNING.fetch_add(1, Ordering::Relaxed) < MAX_SESSIONS).then_some(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        RUNNING.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Starts a session in a thread of its own, which answers the request.
///
/// # Errors
/// The answer, if there is no session.
pub(super) fn begin(
    stream: VsockStream,
    exec: Exec,
    version: u16,
    entrance: &Entrance,
    board: &Board,
) -> Result<(), Reply> {
    let Some(place) = Place::take() else {
        return Err(Reply::Refused(format!("{MAX_SESSIONS} sessions are open already; try again later")));
    };
    let (entrance, shared) = (entrance.clone(), board.clone());
    let stream = Arc::new(stream);
    let lost = Arc::downgrade(&stream);
    let work = move || {
        let _place = place;
        let process = entrance.inside().and_then(|inside| exec::start(&inside, &exec));
        match process {
            Err(error) => send(&stream, &not_started(&error), version),
            Ok(process) => serve(stream, exec.task, version, process, &shared),
        }
    };
    // A panic costs this session: the command and its streams stay as they are.
    let end = move || {
        // That of the thread that panicked, which keeps it.
        drop(Place);
        if let Some(stream) = lost.upgrade() {
            let _ = stream.shutdown(Shutdown::Both);
        }
    };
    helper::once("exec", board, work, end)
        .map_err(|error| Reply::Refused(format!("cannot start a thread: {error}")))
}

fn not_started(error: &ContainerError) -> Reply {
    let exit_status = match error {
        ContainerError::ProgramNotFound { .. } => 127,
        ContainerError::NoInterpreter(_) | ContainerError::NotExecutable { .. } => 126,
        _ => 125,
    };
    let message = match error {
        ContainerError::Setup(what) => what.clone(),
        error => error.to_string(),
    };
    Reply::NotStarted { message, exit_status }
}

fn serve(stream: Arc<VsockStream>, task: Task, version: u16, process: Process, board: &Board) {
    let session = NEXT.fetch_add(1, Ordering::Relaxed);
    log::info!("session {session}: {}", describe(&task));
    board.happened(Happening::SessionStarted { session, task: clipped(task) });
    send(&stream, &Reply::Session, version);
    let exit = match stream.set_nonblocking(true) {
        Ok(()) => Session::new(stream, version, process).run(),
        Err(error) => {
            log::warn!("session {session}: {error}");
            KILLED
        }
    };
    log::info!("session {session} has ended: {exit}");
    board.happened(Happening::SessionEnded { session, exit });
}

fn describe(task: &Task) -> String {
    match task {
        Task::Command(command) => format!("running {}", command.first().map_or("nothing", |first| first)),
        Task::Read(path) => format!("copying {path} to the host"),
        Task::Write { path, .. } => format!("copying from the host to {path}"),
    }
}

/// Returns the task as it fits into an event.
fn clipped(mut task: Task) -> Task {
    match &mut task {
        Task::Command(words) => clip_lines(words),
        Task::Read(path) => clip(path),
        Task::Write { path, name } => {
            clip(path);
            clip(name);
        }
    }
    task
}

struct Session {
    /// `None` once the host has gone.
    stream: Option<Arc<VsockStream>>,
    version: u16,
    process: Process,
    decoder: Decoder,
    /// Frames for the host.
    to_host: Vec<u8>,
    /// Input for the command, and whether it ends after that.
    input: Vec<u8>,
    input_ends: bool,
    exit: Option<Exit>,
    /// When the last output, or the end of an abandoned command, is no longer waited for.
    deadline: Option<Instant>,
}

impl Session {
    fn new(stream: Arc<VsockStream>, version: u16, process: Process) -> Self {
        Self {
            stream: Some(stream),
            version,
            process,
            decoder: Decoder::default(),
            to_host: Vec::new(),
            input: Vec::new(),
            input_ends: false,
            exit: None,
            deadline: None,
        }
    }

    /// Serves the session to its end, and returns how the command ended.
    fn run(mut self) -> Exit {
        loop {
            self.hear();
            self.feed();
            let found = self.collect();
            self.flush();
            if self.exit.is_none() && self.has_exited() {
                self.exit = Some(self.process.exit().unwrap_or(KILLED));
                self.deadline = Some(Instant::now() + DRAIN);
                // What it wrote before is read in the next round.
                continue;
            }
            let is_late = self.deadline.is_some_and(|deadline| Instant::now() >= deadline);
            let is_drained = self.process.output.is_none() && self.process.errors.is_none();
            match self.exit {
                Some(exit) if self.stream.is_none() || is_drained || (is_late && !found) => {
                    self.tell_end(exit);
                    return exit;
                }
                None if is_late => return KILLED,
                _ => self.wait(),
            }
        }
    }

    fn has_exited(&self) -> bool {
        let mut fds = [PollFd::new(self.process.exit.as_fd(), PollFlags::POLLIN)];
        poll(&mut fds, PollTimeout::ZERO).is_ok_and(|count| count > 0)
    }

    /// Waits until something can be done.
    fn wait(&self) {
        let mut fds = Vec::with_capacity(5);
        if let Some(stream) = &self.stream {
            let out = if self.to_host.is_empty() { PollFlags::empty() } else { PollFlags::POLLOUT };
            fds.push(PollFd::new(stream.as_fd(), PollFlags::POLLIN | out));
        }
        if self.to_host.len() < MAX_PENDING {
            let outputs = [&self.process.output, &self.process.errors].into_iter().flatten();
            fds.extend(outputs.map(|file| PollFd::new(file.as_fd(), PollFlags::POLLIN)));
        }
        if let Some(input) = self.process.input.as_ref().filter(|_| !self.input.is_empty()) {
            fds.push(PollFd::new(input.as_fd(), PollFlags::POLLOUT));
        }
        if self.exit.is_none() {
            fds.push(PollFd::new(self.process.exit.as_fd(), PollFlags::POLLIN));
        }
        let left = self.deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let left = left.map(|left| left + Duration::from_millis(1));
        let timeout = left.map_or(PollTimeout::NONE, |left| left.try_into().unwrap_or(PollTimeout::MAX));
        let _ = poll(&mut fds, timeout);
    }

    /// Reads and carries out what the host has sent.
    fn hear(&mut self) {
        let mut buffer = [0; 16 << 10];
        while let Some(mut stream) = self.stream.as_deref() {
            match stream.read(&mut buffer) {
                Ok(0) => return self.abandon("the host has closed the connection"),
                Ok(count) => self.decoder.feed(&buffer[..count]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return self.abandon(&error.to_string()),
            }
            loop {
                match self.decoder.next(MAX_FRAME) {
                    Ok(Some(message)) => self.obey(message),
                    Ok(None) => break,
                    Err(error) => return self.abandon(&error.to_string()),
                }
            }
        }
    }

    fn obey(&mut self, message: ToGuest) {
        match message {
            ToGuest::Input(bytes) if self.input.len() + bytes.len() > WINDOW => {
                self.abandon("the host sent more input than it was allowed to");
            }
            ToGuest::Input(bytes) => self.input.extend_from_slice(&bytes),
            ToGuest::InputEnd => self.input_ends = true,
            ToGuest::Resize(rows, columns) => {
                if let Some(terminal) = &self.process.terminal {
                    let _ = set_size(terminal, (rows, columns));
                }
            }
            ToGuest::Signal(number) => {
                let number = u8::try_from(number).ok().filter(|number| (1..=64).contains(number));
                if let (Some(number), Some(signals)) = (number, &mut self.process.signals) {
                    let _ = signals.write_all(&[number]);
                }
            }
        }
    }

    /// Passes input on to the command.
    fn feed(&mut self) {
        let Some(mut file) = self.process.input.as_ref() else {
            return self.taken(self.input.len());
        };
        while !self.input.is_empty() {
            match file.write(&self.input) {
                Ok(count) => {
                    self.taken(count);
                    let Some(again) = self.process.input.as_ref() else { return };
                    file = again;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // The command has closed it.
                Err(_) => {
                    self.process.input = None;
                    return self.taken(self.input.len());
                }
            }
        }
        // A terminal has no end of input.
        if self.input_ends && self.process.terminal.is_none() {
            self.process.input = None;
        }
    }

    /// Removes input that the command has taken, and says so to the host.
    fn taken(&mut self, count: usize) {
        if count > 0 {
            self.input.drain(..count);
            self.say(&ToHost::Taken(u32::try_from(count).unwrap_or(u32::MAX)));
        }
    }

    /// Reads output of the command. Returns whether there was any.
    fn collect(&mut self) -> bool {
        let mut found = false;
        while self.to_host.len() < MAX_PENDING {
            let output = read_some(&mut self.process.output).map(ToHost::Output);
            let errors = read_some(&mut self.process.errors).map(ToHost::Errors);
            let before = self.to_host.len();
            for message in output.into_iter().chain(errors) {
                self.say(&message);
                found = true;
            }
            if self.to_host.len() == before {
                break;
            }
        }
        found
    }

    fn say(&mut self, message: &ToHost) {
        if self.stream.is_some() {
            // Writing to memory does not fail, and the data was limited when it was read.
            let _ = wire::write_as(&mut self.to_host, message, MAX_FRAME, self.version);
        }
    }

    /// Sends as much as the connection accepts.
    fn flush(&mut self) {
        let mut sent = 0;
        while let Some(stream) = self.stream.as_deref().filter(|_| sent < self.to_host.len()) {
            match Pieces(stream).write(&self.to_host[sent..]) {
                Ok(count) => sent += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return self.abandon(&error.to_string()),
            }
        }
        self.to_host.drain(..sent);
    }

    /// Sends the exit status after everything else, and waits until the host closes the connection: some backends lose what a slow
    /// reader has not taken when the guest closes it.
    fn tell_end(&mut self, exit: Exit) {
        self.say(&ToHost::Ended(exit));
        let Some(mut stream) = self.stream.as_deref() else { return };
        let _ = stream.set_nonblocking(false);
        let _ = stream.set_write_timeout(Some(LAST));
        let _ = stream.set_read_timeout(Some(LAST));
        if Pieces(stream).write_all(&self.to_host).is_ok() {
            let _ = stream.read(&mut [0]);
        }
    }

    /// The host has gone: the command receives SIGHUP, and SIGKILL if that does not end it.
    fn abandon(&mut self, why: &str) {
        log::info!("a session is ended: {why}");
        self.stream = None;
        (self.to_host, self.input) = (Vec::new(), Vec::new());
        let process = &mut self.process;
        (process.input, process.output, process.errors) = (None, None, None);
        (process.terminal, process.signals) = (None, None);
        self.deadline = Some(Instant::now() + LEFT);
    }
}

/// Reads once; at the end the file is closed.
fn read_some(from: &mut Option<File>) -> Option<Vec<u8>> {
    let file = from.as_mut()?;
    let mut bytes = vec![0; MAX_DATA];
    match file.read(&mut bytes) {
        Ok(count @ 1..) => {
            bytes.truncate(count);
            return Some(bytes);
        }
        Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
            return None;
        }
        // At the end of a terminal it is EIO.
        Ok(_) | Err(_) => {}
    }
    *from = None;
    None
}
