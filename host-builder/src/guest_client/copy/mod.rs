//! Copies files to and from the container of a guest, in a session whose stream carries [`image::session::Item`]s.

mod receive;
mod send;

use super::error::QueryError;
use super::session::{Begun, SessionEnd, Stream, begin};
use super::target::Target;
use crate::common::clean::clean;
use crate::common::error::{Error, Result};
use image::session::{Exec, Task};
use image::status::Exit;
use receive::Receiver;
use std::io;
use std::path::Path;
use std::thread;

/// Most bytes of the guest's error messages.
const MAX_MESSAGE: usize = 4096;

/// What was copied.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Copied {
    /// Regular files.
    pub files: u64,
    /// Their size in bytes.
    pub bytes: u64,
    /// Devices, FIFOs and sockets that were not copied.
    pub left_out: u64,
}

/// Copies a file or directory into the container. `owner` is that of what is created; `None`: root. `on_bytes` receives
/// the size of each part of the content.
///
/// # Errors
/// What failed, on which side.
pub fn to_guest(
    target: &Target,
    from: &Path,
    to: &str,
    owner: Option<&str>,
    on_bytes: &(dyn Fn(u64) + Sync),
) -> Result<Copied> {
    let name = send::name_of(from)?;
    let task = Task::Write { path: to.into(), name };
    let (session, mut complaint) = (start(target, task, owner)?, Complaint::default());
    let mut input = session.input();
    let (sent, ended) = thread::scope(|scope| {
        let sender = scope.spawn(move || {
            let sent = send::send(from, &mut input, on_bytes);
            // Without an end the guest knows that the copy is incomplete.
            let _ = input.end();
            sent
        });
        let ended = session.run(|stream, bytes| complaint.take(stream, bytes));
        (
            sender.join().unwrap_or_else(|_| Err(Error::new("the thread that reads the files has failed"))),
            ended,
        )
    });
    // What the guest says is the cause of a connection that ends early.
    match complaint.judge(ended) {
        Ok(()) => sent,
        Err(error) if complaint.is_empty() => Err(sent.err().unwrap_or(error)),
        Err(error) => Err(error),
    }
}

/// Copies a file or directory of the container to this machine. `on_bytes` receives the size of each part of the
/// content.
///
/// # Errors
/// What failed, on which side.
pub fn from_guest(target: &Target, from: &str, to: &Path, on_bytes: &dyn Fn(u64)) -> Result<Copied> {
    let mut receiver = Receiver::new(from, to, on_bytes)?;
    let session = start(target, Task::Read(from.into()), None)?;
    let mut complaint = Complaint::default();
    let mut failed = None;
    let ended = session.run(|stream, bytes| match stream {
        Stream::Errors => complaint.take(stream, bytes),
        Stream::Output => receiver.take(bytes).map_err(|error| {
            failed = Some(error);
            io::ErrorKind::Other.into()
        }),
    });
    match failed {
        Some(error) => Err(error),
        None => complaint.judge(ended).and_then(|()| receiver.finish()),
    }
}

fn start(target: &Target, task: Task, user: Option<&str>) -> Result<super::session::Session> {
    let user = user.map(str::to_owned);
    let exec = Exec { task, user, env: Vec::new(), workdir: None, terminal: None };
    match begin(target, &exec)? {
        Begun::Session(session) => Ok(session),
        Begun::NotStarted { message, .. } => Err(Error::new(format!("the guest cannot copy: {message}"))),
    }
}

/// What the guest writes on standard error.
#[derive(Default)]
struct Complaint(Vec<u8>);

impl Complaint {
    #[allow(clippy::unnecessary_wraps, reason = "it is one of two ways to take output")]
    fn take(&mut self, stream: Stream, bytes: &[u8]) -> io::Result<()> {
        if stream == Stream::Errors {
            let room = MAX_MESSAGE.saturating_sub(self.0.len());
            self.0.extend_from_slice(&bytes[..bytes.len().min(room)]);
        }
        Ok(())
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn judge(&self, ended: std::result::Result<SessionEnd, QueryError>) -> Result<()> {
        match ended? {
            SessionEnd::Exited(Exit { code: Some(0), .. }) => Ok(()),
            SessionEnd::Exited(exit) if self.0.is_empty() => {
                Err(Error::new(format!("the guest did not finish the copy: {exit}")))
            }
            SessionEnd::Exited(_) => {
                let text = String::from_utf8_lossy(&self.0);
                Err(Error::new(format!("the guest: {}", clean(text.trim(), MAX_MESSAGE))))
            }
            SessionEnd::NotTaken(error) => Err(Error::new("the copy was given up").source(error)),
        }
    }
}
