//! The one error type of the host tool: what was expected, what was found, where, and what to do about it.

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

/// What the host tool's functions return.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// Expected against found, and where.
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

    /// The message with the messages of everything underneath.
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

/// Adds to a failed I/O operation what was being done, and to which path.
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
            "free some space there, or choose another place: --output, and GPU_INITRD_CACHE for the cache",
        ),
        io::ErrorKind::PermissionDenied => Some("check its owner and mode, or choose another place"),
        io::ErrorKind::ReadOnlyFilesystem => Some("choose a place that can be written"),
        io::ErrorKind::NotFound => Some("check the path: it, or a directory of it, is not there"),
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
