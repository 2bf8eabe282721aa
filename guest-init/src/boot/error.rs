//! Why a boot cannot go on, or goes on without something, apart from what the rooms below report.

use image::config::ConfigError;
use image::layout;
use std::io;

/// A problem with the configuration of a boot, or with the guest itself.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// The manifest is missing, unreadable or of a newer format.
    #[error("{}: {what}", layout::MANIFEST)]
    Manifest {
        /// What is wrong with it.
        what: String,
    },
    /// The kernel command line cannot be read.
    #[error("/proc/cmdline: {0}")]
    CommandLine(io::Error),
    /// A value of the command line or of config.json is invalid.
    #[error(transparent)]
    Value(#[from] ConfigError),
    /// The config disk cannot be used.
    #[error("cannot use the config disk: {what}")]
    ConfigDisk {
        /// What is wrong with it.
        what: String,
    },
    /// Two settings contradict each other.
    #[error("{0}; remove one of the two settings")]
    Contradiction(String),
    /// A key is unknown.
    #[error("unknown key {0}: it has no effect")]
    UnknownKey(String),
    /// More keys are unknown than are reported one by one.
    #[error("{0} more unknown keys: they have no effect")]
    MoreUnknownKeys(usize),
    /// Keys for another init, which have no effect here.
    #[error(
        "config.json has hypeman keys that have no effect here: {0} (hypeman writes them for its own init)"
    )]
    KeysWithoutEffect(String),
    /// `HAS_GPU=1` is set, but the initrd has no driver.
    #[error("HAS_GPU=1 is set, but the initrd contains no driver")]
    NoDriver,
    /// The host promised a GPU, but there is none.
    #[error("{promise} promises a GPU, but there is no NVIDIA GPU on the PCI bus")]
    NoGpu {
        /// The setting.
        promise: String,
    },
    /// The GPUs differ from those that the host promised.
    #[error("the host promised {promised}, but the PCI bus has {}: {}", .present.len(), .present.join(", "))]
    OtherGpus {
        /// The promise, in words.
        promised: String,
        /// The GPUs on the bus.
        present: Vec<String>,
    },
    /// The PCI bus cannot be read.
    #[error("cannot read the PCI bus: {0}")]
    PciBus(io::Error),
    /// The kernel's file systems cannot be mounted.
    #[error("{0}")]
    Mounts(String),
    /// The process that keeps answering status requests cannot be started.
    #[error("cannot start the process that keeps answering status requests: {0}")]
    Keeper(io::Error),
}
