//! The phases of a boot, and how they ended.

use serde::{Deserialize, Serialize};

/// Phases of a boot, in the order in which they begin. The GPU and the root are prepared in parallel.
///
/// The numbers on the wire are in the order of the declaration, which new phases extend at its end; the order of a boot is that of
/// [`Phase::IN_ORDER`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// File systems, console, command line.
    #[default]
    Start,
    /// Modules for disks and vsock.
    Modules,
    /// The config disk.
    Config,
    /// The driver files are made available: an image in the initrd or a separate disk is mounted.
    Payload,
    /// Driver modules, nodes, adapter initialisation.
    Gpu,
    /// The container root is mounted.
    Root,
    /// Driver files are added to the root.
    Inject,
    /// The loader cache is written.
    Cache,
    /// The program is being started.
    Exec,
    /// The program runs.
    Running,
    /// The program has ended.
    Exited,
    /// The guest was asked to stop: the program has the signal, and the time until it is killed runs.
    Stopping,
}

impl Phase {
    /// Every phase, in the order of a boot.
    pub const IN_ORDER: [Self; 12] = [
        Self::Start,
        Self::Modules,
        Self::Config,
        Self::Payload,
        Self::Gpu,
        Self::Root,
        Self::Inject,
        Self::Cache,
        Self::Exec,
        Self::Running,
        Self::Stopping,
        Self::Exited,
    ];

    fn rank(self) -> usize {
        Self::IN_ORDER.iter().position(|phase| *phase == self).unwrap_or(Self::IN_ORDER.len())
    }
}

impl Ord for Phase {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.rank().cmp(&other.rank())
    }
}

impl PartialOrd for Phase {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

/// Outcome of the boot.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// Still booting.
    #[default]
    Pending,
    /// The container was started, with every GPU; with `gpu=optional`, the findings say what is missing.
    Ready,
    /// The boot ended without a container; the findings say why.
    Failed,
}

/// Outcome of one phase.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum PhaseOutcome {
    /// In progress.
    Running,
    /// Successful.
    Done,
    /// There was nothing to do.
    Skipped,
    /// Failed; a finding says why.
    Failed,
}

/// Progress of a phase in its own steps: modules loaded, GPUs initialised.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Progress {
    /// Completed steps.
    pub done: u32,
    /// All steps.
    pub total: u32,
}

/// Times of one phase, in milliseconds since the kernel started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct PhaseTime {
    /// The phase.
    pub phase: Phase,
    /// When it began.
    pub start_ms: u64,
    /// When it ended.
    pub end_ms: Option<u64>,
    /// Its outcome.
    pub outcome: PhaseOutcome,
    /// Its progress, if known.
    pub progress: Option<Progress>,
}
