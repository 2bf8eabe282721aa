//! Why a container was not started. The stage sends it to PID 1 as JSON.

use serde::{Deserialize, Serialize};

/// Why a container was not started, or what it was started without.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum ContainerError {
    /// The configuration has no command.
    #[error("no command to run: neither entrypoint nor cmd is set")]
    NoCommand,
    /// The user or its group is invalid, or the image does not have it.
    #[error("{0} (expected UID:GID, or names in the image's /etc/passwd and /etc/group)")]
    User(String),
    /// The user cannot enter the working directory.
    #[error("working directory {path}: {what}")]
    WorkingDirectory {
        /// The directory.
        path: String,
        /// The error.
        what: String,
    },
    /// The program is not in the image.
    #[error("{program} is not in {searched}{}", if *.of_driver {
        ": it is a program of the driver, and the container did not receive the driver's programs"
    } else {
        ""
    })]
    ProgramNotFound {
        /// The program.
        program: String,
        /// Where it was searched.
        searched: String,
        /// Whether it has the name of a program of the driver.
        of_driver: bool,
    },
    /// The interpreter or loader of the program is not in the image.
    #[error("{0} is in the image, but its interpreter or loader is not")]
    NoInterpreter(String),
    /// The kernel cannot execute the program.
    #[error("cannot execute {program}: {errno}")]
    NotExecutable {
        /// The program.
        program: String,
        /// The kernel's error.
        errno: String,
    },
    /// The root, a namespace or a restriction could not be set up.
    #[error("cannot prepare the container root: {0}")]
    Setup(String),
    /// The disk of a volume did not appear.
    #[error("volume {device} on {path}: {what}")]
    VolumeMissing {
        /// The disk.
        device: String,
        /// The volume's path.
        path: String,
        /// The wait, and the disks in the guest.
        what: String,
    },
    /// A volume could not be mounted, or not at its path.
    #[error("volume {device} on {path}: {what}")]
    VolumeUnusable {
        /// The disk.
        device: String,
        /// The volume's path.
        path: String,
        /// What failed.
        what: String,
    },
    /// The stage itself failed.
    #[error("{what}")]
    Internal {
        /// What failed.
        what: String,
        /// What it wrote instead of a message.
        output: Vec<String>,
    },
}

impl ContainerError {
    /// A failure of the stage itself.
    pub(super) fn internal(what: impl Into<String>) -> Self {
        Self::Internal { what: what.into(), output: Vec::new() }
    }
}
