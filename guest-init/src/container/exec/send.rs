//! Reads files of the container for a copy.

use crate::confined_fs::{EntryType, RootDir, RootError};
use image::session::{Item, MAX_DATA, below};
use image::wire::WireError;
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Maximum depth of directories.
const MAX_DEPTH: usize = 100;

/// Why a copy failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum CopyError {
    /// A file of the container could not be read or written.
    #[error("{}", image::text::chain(.0))]
    Root(#[from] RootError),
    /// The content of a file could not be read or written.
    #[error("{path}: {source}")]
    Content {
        /// The path in the container.
        path: String,
        /// The error of the system.
        source: std::io::Error,
    },
    /// The connection failed, or did not carry a copy.
    #[error("the copy was interrupted: {0}")]
    Wire(#[from] WireError),
    /// Something else is in the way, or missing.
    #[error("{0}")]
    Unexpected(String),
}

/// Sends the file or directory at `path`. A link at the end of `path` is followed, and links in a directory are sent as links.
///
/// # Errors
/// [`CopyError`]. What was sent before stays sent.
pub(super) fn send(root: &RootDir, path: &Path, out: &mut impl Write) -> Result<(), CopyError> {
    let kind = root.stat(path)?.kind;
    send_entry(root, path, kind, &[], 0, out)?;
    Item::End.write(out)?;
    Ok(())
}

fn send_entry(
    root: &RootDir,
    path: &Path,
    kind: EntryType,
    name: &[u8],
    depth: usize,
    out: &mut impl Write,
) -> Result<(), CopyError> {
    match kind {
        EntryType::File => send_file(root, path, name, out)?,
        EntryType::Link => {
            let target = root.read_link(path)?.into_os_string();
            Item::Link { path: name.to_vec(), target: target.as_bytes().to_vec() }.write(out)?;
        }
        EntryType::Other => Item::LeftOut { path: name.to_vec() }.write(out)?,
        EntryType::Directory if depth == MAX_DEPTH => {
            let path = path.display();
            return Err(CopyError::Unexpected(format!("{path}: more than {MAX_DEPTH} directories deep")));
        }
        EntryType::Directory => {
            Item::Directory { path: name.to_vec(), mode: root.stat(path)?.mode }.write(out)?;
            for entry in root.list(path)? {
                let name = below(name, entry.name.as_bytes());
                send_entry(root, &path.join(&entry.name), entry.kind, &name, depth + 1, out)?;
            }
        }
    }
    Ok(())
}

fn send_file(root: &RootDir, path: &Path, name: &[u8], out: &mut impl Write) -> Result<(), CopyError> {
    let file = root.open_file(path, u64::MAX)?;
    let failed = |source| CopyError::Content { path: path.display().to_string(), source };
    let stat = root.stat(path)?;
    let size = file.metadata().map_err(failed)?.len();
    let modified = stat.modified_ns / 1_000_000_000;
    Item::File { path: name.to_vec(), mode: stat.mode, modified, size }.write(out)?;
    // A file that grows meanwhile is cut, one that shrinks is an error.
    let mut left = size;
    let mut file = file.take(size);
    let mut buffer = vec![0; MAX_DATA];
    while left > 0 {
        let count = file.read(&mut buffer).map_err(failed)?;
        if count == 0 {
            let what = format!("{}: the file was {size} bytes long and became shorter", path.display());
            return Err(CopyError::Unexpected(what));
        }
        left -= count as u64;
        Item::Data(buffer[..count].to_vec()).write(out)?;
    }
    Ok(())
}
