//! Sessions: commands that the host runs in the container, and copies of its files.
//!
//! A session begins with [`Request::Exec`](crate::wire::Request::Exec). After
//! [`Reply::Session`](crate::wire::Reply::Session) the connection belongs to it: both sides send frames in the version of the
//! request, the host [`ToGuest`] and the guest [`ToHost`], until [`ToHost::Ended`].
//!
//! A copy is a session whose standard input ([`Task::Write`]) or standard output ([`Task::Read`]) carries frames of [`Item`].

use crate::status::Exit;
use crate::wire::{self, WireError};
use serde::{Deserialize, Serialize};
use std::io::{Read, Write};

/// Largest number of bytes in one frame of data.
pub const MAX_DATA: usize = 32 << 10;
/// Largest payload of a frame of a session: the data, its length, and the kind.
pub const MAX_FRAME: usize = MAX_DATA + 4096 + 64;
/// Bytes of standard input that the host may send before the guest has reported them as taken ([`ToHost::Taken`]), so that
/// signals and sizes are never stuck behind data.
pub const WINDOW: usize = 256 << 10;

/// A session that the host asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exec {
    /// What is done.
    pub task: Task,
    /// `NAME`, `UID`, `NAME:GROUP` or `UID:GID`; `None`: the user of the container's program, or root for a copy.
    pub user: Option<String>,
    /// Variables added to the environment of the container's program.
    pub env: Vec<(String, String)>,
    /// The working directory; `None`: that of the container's program.
    pub workdir: Option<String>,
    /// Rows and columns of the command's terminal; `None`: it has three streams instead.
    pub terminal: Option<(u16, u16)>,
}

/// What a session does in the container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum Task {
    /// Runs a command.
    Command(Vec<String>),
    /// Reads the file or directory at this path.
    Read(String),
    /// Writes a file or directory to this path, or into the directory at this path, under this name.
    Write {
        /// The path.
        path: String,
        /// The name of what is written.
        name: String,
    },
}

/// What the host sends in a session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToGuest {
    /// Standard input, at most [`MAX_DATA`] bytes.
    Input(#[serde(with = "serde_bytes")] Vec<u8>),
    /// The end of standard input.
    InputEnd,
    /// The terminal has another size: rows, columns.
    Resize(u16, u16),
    /// A signal for the command and its process group.
    Signal(i32),
}

/// What the guest sends in a session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToHost {
    /// Standard output, or the output of the terminal, at most [`MAX_DATA`] bytes.
    Output(#[serde(with = "serde_bytes")] Vec<u8>),
    /// Standard error, at most [`MAX_DATA`] bytes.
    Errors(#[serde(with = "serde_bytes")] Vec<u8>),
    /// So many bytes of standard input were taken.
    Taken(u32),
    /// The command has ended. Nothing follows.
    Ended(Exit),
}

/// A part of a copy: directories before what is in them, the content of a file after it, and [`Item::End`] at the end. Paths are
/// names separated by `/`, relative to what is copied, which is itself the empty path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Item {
    /// A directory.
    Directory {
        /// Its path.
        path: Vec<u8>,
        /// Its permission bits.
        mode: u32,
    },
    /// A regular file, whose content follows.
    File {
        /// Its path.
        path: Vec<u8>,
        /// Its permission bits.
        mode: u32,
        /// Time of its last change in seconds since 1970.
        modified: i64,
        /// Its size in bytes.
        size: u64,
    },
    /// The next bytes of a file, at most [`MAX_DATA`].
    Data(#[serde(with = "serde_bytes")] Vec<u8>),
    /// A symbolic link.
    Link {
        /// Its path.
        path: Vec<u8>,
        /// Its target.
        target: Vec<u8>,
    },
    /// Something that is not copied: a device, a FIFO or a socket.
    LeftOut {
        /// Its path.
        path: Vec<u8>,
    },
    /// The copy is complete.
    End,
}

impl Item {
    /// Writes the item.
    pub fn write(&self, out: &mut impl Write) -> Result<(), WireError> {
        wire::write(out, self, MAX_FRAME)
    }

    /// Reads an item.
    pub fn read(input: &mut impl Read) -> Result<Self, WireError> {
        wire::read(input, MAX_FRAME)
    }
}

/// Returns the names of the path of an [`Item`].
///
/// # Errors
/// If it is not relative, or contains something else than names.
pub fn names(path: &[u8]) -> Result<Vec<&[u8]>, String> {
    if path.is_empty() {
        return Ok(Vec::new());
    }
    let names: Vec<_> = path.split(|byte| *byte == b'/').collect();
    if names.iter().any(|name| matches!(*name, b"" | b"." | b"..") || name.contains(&0)) {
        return Err(format!("expected names separated by /, found {:?}", String::from_utf8_lossy(path)));
    }
    Ok(names)
}

/// Returns the path of the entry `name` of the directory at `path`, as an [`Item`] has it.
pub fn below(path: &[u8], name: &[u8]) -> Vec<u8> {
    if path.is_empty() { name.to_vec() } else { [path, b"/", name].concat() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_path_of_an_item_cannot_lead_anywhere_else() {
        assert_eq!(names(b""), Ok(vec![]));
        assert_eq!((below(b"", b"a"), below(b"a", b"b")), (b"a".to_vec(), b"a/b".to_vec()));
        assert_eq!(names(b"a/b c/\xff"), Ok(vec![&b"a"[..], b"b c", b"\xff"]));
        for path in [&b"/etc"[..], b"a/../b", b"..", ".".as_bytes(), b"a//b", b"a/", b"a\0b", b"a/./b"] {
            assert!(names(path).is_err(), "{path:?}");
        }
    }

    #[test]
    fn the_largest_frames_fit() {
        let name = vec![b'x'; 4095];
        let mut out = Vec::new();
        for item in [Item::Data(vec![0xff; MAX_DATA]), Item::Link { path: name.clone(), target: name }] {
            item.write(&mut out).unwrap();
            assert_eq!(Item::read(&mut out.as_slice()).unwrap(), item);
            out.clear();
        }
        wire::write(&mut out, &ToHost::Output(vec![0xff; MAX_DATA]), MAX_FRAME).unwrap();
    }
}
