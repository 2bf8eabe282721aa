//! What can happen to a guest while it runs.

use image::status::Phase;
use std::time::Duration;

/// Something that happened to a guest while it booted or ran.
#[derive(Debug, thiserror::Error)]
pub enum GuestTrouble {
    /// The driver reported an Xid of a working GPU.
    #[error("GPU {bdf} reported Xid {code}")]
    Xid {
        /// The GPU's address.
        bdf: String,
        /// The number.
        code: u32,
        /// The kernel's line.
        line: String,
    },
    /// A line says that a GPU has fallen off the bus, but it has not.
    #[error(
        "the kernel log says that GPU {bdf} has fallen off the bus{how}, but it responds on the bus: another program may have written the line"
    )]
    NotLost {
        /// The GPU's address.
        bdf: String,
        /// ` (Xid 79)`, or empty.
        how: String,
        /// The kernel's line.
        line: String,
    },
    /// A GPU is no longer there.
    #[error("GPU {bdf} is lost: {why}")]
    GpuLost {
        /// The GPU's address.
        bdf: String,
        /// How this was noticed.
        why: String,
        /// The kernel's lines about it.
        lines: Vec<String>,
    },
    /// The kernel killed a process of the container.
    #[error("the kernel's out-of-memory killer ended a process of the container")]
    OomKilled {
        /// The kernel's line, if there was one.
        line: Option<String>,
    },
    /// The guest ran out of memory.
    #[error("{what} (the guest has {memory} MiB)")]
    OutOfMemory {
        /// What the kernel did about it.
        what: String,
        /// The guest's memory in MiB.
        memory: u64,
        /// The kernel's line.
        line: String,
    },
    /// Little memory is left for the container.
    #[error("only {available} of {total} MiB are available to the container")]
    LittleMemory {
        /// Available memory in MiB.
        available: u64,
        /// The guest's memory in MiB.
        total: u64,
    },
    /// A phase of the boot did not end.
    #[error("phase {} did not end within {} s", image::text::name(phase), .limit.as_secs_f32())]
    PhaseTimedOut {
        /// The phase.
        phase: Phase,
        /// Its deadline.
        limit: Duration,
        /// The threads that wait, and where.
        threads: Vec<String>,
    },
    /// A task waits for something that does not respond.
    #[error("{task} has waited in the kernel for too long")]
    TaskHung {
        /// The task.
        task: String,
        /// The kernel's line.
        line: String,
    },
    /// A processor is stuck.
    #[error("a processor does not leave the kernel{runs}")]
    CpuStuck {
        /// ` while it runs …`, or empty.
        runs: String,
        /// The kernel's line.
        line: String,
    },
    /// A thread of this program panicked.
    #[error("{text}")]
    Panic {
        /// What it said.
        text: String,
    },
}
