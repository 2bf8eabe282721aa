//! The host's side of a session: a command in a guest's container, with its streams, signals and exit status.

use super::connection::Connection;
use super::error::{QueryError, Step};
use super::request::ATTEMPT;
use super::target::Target;
use crate::common::clean::clean;
use image::session::{Exec, MAX_DATA, MAX_FRAME, ToGuest, ToHost, WINDOW};
use image::status::Exit;
use image::wire::{self, MAX_REQUEST, Reply, Request};
use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Longest time from the request to the start of the command; the guest's own limit is 30 s.
const START: Duration = Duration::from_secs(40);
/// A session may last this long.
const FOR_EVER: Duration = Duration::from_hours(10 * 365 * 24);

/// Which stream of the command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// Standard output, or the output of its terminal.
    Output,
    /// Standard error.
    Errors,
}

/// The answer to the request for a session.
pub enum Begun {
    /// The command runs.
    Session(Session),
    /// The command does not run.
    NotStarted {
        /// Why, as the guest says.
        message: String,
        /// Exit status as in a shell.
        exit_status: u8,
    },
}

/// A running session.
pub struct Session {
    connection: Connection,
    input: Input,
}

/// The way to a session's command: its standard input, its signals, the size of its terminal. Clones lead to the same one.
#[derive(Clone)]
pub struct Input(Arc<Shared>);

struct Shared {
    connection: Mutex<Connection>,
    window: Mutex<Window>,
    changed: Condvar,
}

/// How much input may be sent.
struct Window {
    left: usize,
    is_over: bool,
}

/// Asks for a session.
///
/// # Errors
/// [`QueryError`]; [`QueryError::Refused`] if the guest does not accept sessions.
pub fn begin(target: &Target, exec: &Exec) -> Result<Begun, QueryError> {
    let mut connection = Connection::open(target, Instant::now() + ATTEMPT)?;
    connection.set_deadline(Instant::now() + START);
    let request = Request::Exec(Box::new(exec.clone()));
    let sent = wire::write(&mut connection, &request, MAX_REQUEST);
    // A guest that has closed the connection may have said why.
    if let Err(error @ wire::WireError::TooLarge { .. }) = sent {
        return Err(QueryError::wire(Step::Request, START, error));
    }
    let (reply, version) = connection.receive(START)?;
    match reply {
        Reply::Session => {}
        Reply::NotStarted { message, exit_status } => {
            return Ok(Begun::NotStarted { message: clean(&message, 400), exit_status });
        }
        Reply::Refused(_) if version < request.since() => {
            return Err(QueryError::UnknownRequest { name: request.name(), found: version });
        }
        Reply::Refused(reason) => return Err(QueryError::Refused { reason: clean(&reason, 200) }),
        _ => return Err(QueryError::another_question()),
    }
    connection.set_deadline(Instant::now() + FOR_EVER);
    let failed = |error| QueryError::io(Step::Connect, START, error);
    let shared = Shared {
        connection: Mutex::new(connection.try_clone().map_err(failed)?),
        window: Mutex::new(Window { left: WINDOW, is_over: false }),
        changed: Condvar::new(),
    };
    Ok(Begun::Session(Session { connection, input: Input(Arc::new(shared)) }))
}

/// How a session ended.
#[derive(Debug)]
pub enum SessionEnd {
    /// The command has ended.
    Exited(Exit),
    /// `take` has failed; the guest ends the command.
    NotTaken(io::Error),
}

impl Session {
    /// Returns the way to the command.
    pub fn input(&self) -> Input {
        self.input.clone()
    }

    /// Passes output to `take` until the command has ended.
    ///
    /// # Errors
    /// [`QueryError`] if the connection ends before.
    pub fn run(
        mut self,
        mut take: impl FnMut(Stream, &[u8]) -> io::Result<()>,
    ) -> Result<SessionEnd, QueryError> {
        let end = loop {
            let message = match wire::read(&mut self.connection, MAX_FRAME) {
                Ok(message) => message,
                Err(error) => break Err(QueryError::wire(Step::Reply, FOR_EVER, error)),
            };
            let taken = match message {
                ToHost::Output(bytes) => take(Stream::Output, &bytes),
                ToHost::Errors(bytes) => take(Stream::Errors, &bytes),
                ToHost::Taken(count) => {
                    self.input.0.grow(count as usize);
                    Ok(())
                }
                ToHost::Ended(exit) => break Ok(SessionEnd::Exited(exit)),
            };
            if let Err(error) = taken {
                break Ok(SessionEnd::NotTaken(error));
            }
        };
        self.input.0.end();
        end
    }
}

impl Shared {
    fn window(&self) -> MutexGuard<'_, Window> {
        self.window.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A guest cannot make the window larger than it was.
    fn grow(&self, count: usize) {
        let mut window = self.window();
        window.left = window.left.saturating_add(count).min(WINDOW);
        self.changed.notify_all();
    }

    fn end(&self) {
        self.window().is_over = true;
        self.changed.notify_all();
    }

    /// Waits until something may be sent, and takes at most `most` bytes from the window.
    fn take(&self, most: usize) -> io::Result<usize> {
        let waits = |window: &mut Window| window.left == 0 && !window.is_over;
        let window = self.changed.wait_while(self.window(), waits);
        let mut window = window.unwrap_or_else(PoisonError::into_inner);
        if window.is_over {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let count = most.min(window.left);
        window.left -= count;
        Ok(count)
    }
}

impl Input {
    /// Ends the command's standard input.
    ///
    /// # Errors
    /// If the connection has failed.
    pub fn end(&self) -> io::Result<()> {
        self.send(&ToGuest::InputEnd)
    }

    /// Sends a signal to the command's process group.
    ///
    /// # Errors
    /// If the connection has failed.
    pub fn signal(&self, number: i32) -> io::Result<()> {
        self.send(&ToGuest::Signal(number))
    }

    /// Changes the size of the command's terminal.
    ///
    /// # Errors
    /// If the connection has failed.
    pub fn resize(&self, (rows, columns): (u16, u16)) -> io::Result<()> {
        self.send(&ToGuest::Resize(rows, columns))
    }

    fn send(&self, message: &ToGuest) -> io::Result<()> {
        let mut connection = self.0.connection.lock().unwrap_or_else(PoisonError::into_inner);
        wire::write(&mut *connection, message, MAX_FRAME).map_err(io::Error::other)
    }
}

impl Write for Input {
    /// Sends standard input; waits while the command takes none.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.is_empty() {
            return Ok(0);
        }
        let count = self.0.take(bytes.len().min(MAX_DATA))?;
        self.send(&ToGuest::Input(bytes[..count].to_vec()))?;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
