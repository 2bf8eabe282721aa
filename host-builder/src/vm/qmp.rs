//! A client of QEMU's monitor. The monitor speaks QMP: one JSON object per line on a Unix socket, as QEMU's documentation
//! describes it (interop/qmp-spec). It serves one client at a time.

use crate::common::error::{Doing, Error, Result};
use crate::guest_client::connection::Connection;
use serde_json::{Value, json};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

/// Longest line that is accepted, in bytes. The answers to the commands used here have a few thousand.
const MAX_LINE: u64 = 1 << 20;
/// Longest quote of an unexpected line in an error, in characters.
const QUOTED: usize = 300;

/// A connection to the monitor, ready for commands.
pub struct Qmp {
    stream: BufReader<Connection>,
    version: (u64, u64),
}

impl Qmp {
    /// Reads the greeting on a new connection and ends the negotiation of capabilities, both within `deadline`.
    ///
    /// # Errors
    /// When the peer is not QEMU's monitor, ends the connection, or does not answer in time.
    pub fn new(stream: UnixStream, deadline: Duration) -> Result<Self> {
        let end = Instant::now() + deadline;
        let connection =
            Connection::accepted(stream.into(), end).map_err(|error| failed("greeting", error))?;
        let mut qmp = Self { stream: BufReader::new(connection), version: (0, 0) };
        let greeting = qmp.receive("greeting")?;
        let number = |name: &str| greeting["QMP"]["version"]["qemu"][name].as_u64();
        qmp.version = number("major").zip(number("minor")).ok_or_else(|| {
            unexpected("greeting", "an object QMP with QEMU's version", &greeting.to_string())
        })?;
        qmp.execute("qmp_capabilities", &json!({}), end.saturating_duration_since(Instant::now()))?;
        Ok(qmp)
    }

    /// QEMU's major and minor version.
    pub fn version(&self) -> (u64, u64) {
        self.version
    }

    /// Runs a command, and returns the value of `return` in its answer. Events that arrive before the answer are skipped.
    ///
    /// # Errors
    /// When QEMU refuses the command, ends the connection, or does not answer within `deadline`.
    pub fn execute(&mut self, command: &str, arguments: &Value, deadline: Duration) -> Result<Value> {
        self.attempt(command, arguments, deadline)?.map_err(|reason| refused(command, &reason))
    }

    /// The same for a command that QEMU may refuse: the inner error is QEMU's reason.
    ///
    /// # Errors
    /// When QEMU ends the connection, or does not answer within `deadline`.
    pub fn attempt(
        &mut self,
        command: &str,
        arguments: &Value,
        deadline: Duration,
    ) -> Result<std::result::Result<Value, String>> {
        let request = json!({ "execute": command, "arguments": arguments });
        let connection = self.stream.get_mut();
        connection.set_deadline(Instant::now() + deadline);
        connection.write_all(format!("{request}\n").as_bytes()).map_err(|error| failed(command, error))?;
        loop {
            let mut answer = self.receive(command)?;
            if let Some(value) = answer.get_mut("return") {
                return Ok(Ok(value.take()));
            }
            if let Some(error) = answer.get("error") {
                return Ok(Err(error["desc"].as_str().map_or_else(|| error.to_string(), str::to_owned)));
            }
            if answer.get("event").is_none() {
                return Err(unexpected(command, "return, error or event", &answer.to_string()));
            }
        }
    }

    /// The next line, as JSON.
    fn receive(&mut self, what: &str) -> Result<Value> {
        let mut line = Vec::new();
        let read = self.stream.by_ref().take(MAX_LINE).read_until(b'\n', &mut line);
        read.map_err(|error| failed(what, error))?;
        if line.len() as u64 == MAX_LINE {
            let message = format!("QEMU's monitor: {what}: found a line of more than {MAX_LINE} bytes");
            return Err(Error::new(message));
        }
        if line.last() != Some(&b'\n') {
            return Err(failed(what, io::ErrorKind::UnexpectedEof.into()));
        }
        serde_json::from_slice(&line)
            .map_err(|error| unexpected(what, "JSON", &String::from_utf8_lossy(&line)).source(error))
    }
}

/// Presses the power button of the guest whose monitor is at `socket`, within `deadline` for each
/// answer. The guest decides what the button does.
///
/// # Errors
/// When there is no such monitor, or it does not accept the command.
pub fn press_power_button(socket: &Path, deadline: Duration) -> Result<()> {
    let stream = UnixStream::connect(socket).doing("connecting to QEMU's monitor at", socket)?;
    Qmp::new(stream, deadline)?.execute("system_powerdown", &json!({}), deadline).map(drop)
}

fn failed(what: &str, error: io::Error) -> Error {
    use io::ErrorKind::{BrokenPipe, ConnectionReset, TimedOut, UnexpectedEof};
    match error.kind() {
        UnexpectedEof | BrokenPipe | ConnectionReset => {
            Error::new(format!("QEMU's monitor closed the connection (expected: {what})"))
        }
        TimedOut => Error::new(format!("QEMU's monitor did not answer in time: {what}")),
        _ => Error::new(format!("QEMU's monitor: {what}")).source(error),
    }
}

/// An error for a command that QEMU refused.
pub(super) fn refused(command: &str, reason: &str) -> Error {
    Error::new(format!("QEMU's monitor refused {command}: {}", quoted(reason)))
}

/// An error for a line that is not what was expected.
fn unexpected(what: &str, expected: &str, found: &str) -> Error {
    Error::new(format!("QEMU's monitor: {what}: expected {expected}, found {}", quoted(found.trim_end())))
}

/// The text as a Rust literal, shortened.
fn quoted(text: &str) -> String {
    format!("{:?}", text.chars().take(QUOTED).collect::<String>())
}

#[cfg(test)]
mod tests;
