//! QEMU's monitor (QMP): what a host does to a machine that runs.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    os::unix::net::UnixStream,
    path::Path,
    time::Duration,
};

use serde_json::{Value, json};

use crate::RigError;

/// QEMU answers at once, unless the machine is busy.
const ANSWER: Duration = Duration::from_secs(20);

/// Takes a device away as an operator does (`device_del`): the guest is asked to let go of it. Returns once QEMU has accepted that.
pub fn unplug(socket: &Path, device: &str) -> Result<(), RigError> {
    let io = |e| RigError::io("ask QEMU's monitor at", socket, e);
    let stream = UnixStream::connect(socket).map_err(io)?;
    stream.set_read_timeout(Some(ANSWER)).map_err(io)?;
    let mut answers = BufReader::new(&stream).lines();
    for command in [
        json!({ "execute": "qmp_capabilities" }),
        json!({ "execute": "device_del", "arguments": { "id": device } }),
    ] {
        (&stream).write_all(format!("{command}\n").as_bytes()).map_err(io)?;
        loop {
            let line = answers.next().transpose().map_err(io)?.unwrap_or_default();
            let answer: Value = serde_json::from_str(&line).unwrap_or_default();
            // The greeting, and events, may come first.
            if answer.get("return").is_some() {
                break;
            }
            if answer.get("error").is_some() || answer.is_null() {
                let what = format!("QEMU's answer to {command}");
                return Err(RigError::Malformed { what, detail: line });
            }
        }
    }
    Ok(())
}
