//! The error type of host-builder: what was expected, what was found, where, and the remedy.

use std::fmt::Display;
use std::io;
use std::path::Path;

/// A failure that ends a command with exit code 2.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    message: String,
    hint: Option<String>,
    #[source]
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

/// The result type of host-builder's functions.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// Creates an error with a message.
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), hint: None, source: None }
    }

    /// What to do.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The failure underneath.
    #[must_use]
    pub fn source(mut self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// The remedy, when there is one.
    pub fn remedy(&self) -> Option<&str> {
        self.hint.as_deref()
    }

    /// The message with the messages of all its sources.
    pub fn chain(&self) -> String {
        let mut text = self.message.clone();
        let mut next = std::error::Error::source(self);
        while let Some(error) = next {
            text = format!("{text}: {error}");
            next = error.source();
        }
        text
    }
}

/// Adds the operation and the path to a failed I/O operation.
pub trait Doing<T> {
    /// `doing` is a verb phrase: "reading", "creating".
    fn doing(self, doing: &str, path: &Path) -> Result<T>;
}

impl<T> Doing<T> for io::Result<T> {
    fn doing(self, doing: &str, path: &Path) -> Result<T> {
        self.map_err(|error| io_error(doing, path.display(), error))
    }
}

fn io_error(doing: &str, path: impl Display, error: io::Error) -> Error {
    let hint = match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Some(
            "free some space there, or choose another directory: --output, and GPU_INITRD_CACHE for the cache",
        ),
        io::ErrorKind::PermissionDenied => Some("check its owner and mode, or choose another path"),
        io::ErrorKind::ReadOnlyFilesystem => Some("choose a writable path"),
        io::ErrorKind::NotFound => Some("check the path: the file or a parent directory does not exist"),
        io::ErrorKind::NotADirectory | io::ErrorKind::AlreadyExists => {
            Some("check the path: a file is where a directory should be, or the other way round")
        }
        _ => None,
    };
    let failure = Error::new(format!("{doing} {path}")).source(error);
    match hint {
        Some(hint) => failure.hint(hint),
        None => failure,
    }
}
