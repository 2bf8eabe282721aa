//! The error type of the rig: which part of the rig failed, on what, and why.

use std::{
    error::Error as _,
    fmt, io,
    path::{Path, PathBuf},
    process::ExitStatus,
    time::Duration,
};

/// Why the rig could not do what a test asked of it. `Debug`, which a failing test prints, is the
/// whole chain of causes.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum RigError {
    /// A system call on a file failed.
    #[error("cannot {what} {}", path.display())]
    Io {
        /// The attempt, as a verb phrase.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// The error of the system.
        source: io::Error,
    },
    /// The vfio-user connection to QEMU failed.
    #[error("the phantom GPU on {} lost its QEMU", socket.display())]
    Phantom {
        /// Socket of the phantom.
        socket: PathBuf,
        /// What broke.
        source: vfio_user::Error,
    },
    /// A program could not be started.
    #[error("cannot start {program}")]
    Start {
        /// The program.
        program: String,
        /// The error of the system.
        source: io::Error,
    },
    /// A program ended without success.
    #[error("{program} failed ({status}):\n{output}")]
    Failed {
        /// The program and its arguments.
        program: String,
        /// How it ended.
        status: ExitStatus,
        /// The end of its output.
        output: String,
    },
    /// A function of host-builder failed.
    #[error("{}", .0.chain())]
    Host(#[from] host_builder::common::error::Error),
    /// Something did not happen in time.
    #[error("{what} did not happen within {} s\n{context}", deadline.as_secs_f32())]
    Deadline {
        /// What was waited for.
        what: String,
        /// How long.
        deadline: Duration,
        /// The last output until then (of a console, of a log).
        context: String,
    },
    /// The machine lacks something that the rig needs.
    #[error("{what} is missing; {remedy}")]
    Missing {
        /// The thing.
        what: String,
        /// How to get it.
        remedy: String,
    },
    /// Input that is not in the form the rig knows.
    #[error("{what}: {detail}")]
    Malformed {
        /// Which input.
        what: String,
        /// What is wrong with it.
        detail: String,
    },
}

impl RigError {
    /// A failed attempt `what` (a verb phrase) on `path`; made for `map_err`.
    pub fn io(what: &'static str, path: impl AsRef<Path>, source: io::Error) -> Self {
        Self::Io { what, path: path.as_ref().to_owned(), source }
    }
}

impl fmt::Debug for RigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")?;
        if let Self::Host(error) = self {
            return error.remedy().map_or(Ok(()), |remedy| write!(f, "; {remedy}"));
        }
        let mut cause = self.source();
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_prints_the_whole_chain_of_causes() {
        let error = RigError::io("read", "/nowhere", io::Error::other("gone"));
        assert_eq!(format!("{error:?}"), "cannot read /nowhere: gone");
        assert_eq!(error.to_string(), "cannot read /nowhere");
    }
}
