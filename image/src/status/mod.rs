//! The status of a guest. `status --json` prints exactly these types.

mod critical_path;
mod exit;
mod explain;
pub mod finding;
mod phase;

pub use self::finding::{Code, Finding, Severity};
pub use self::phase::{Outcome, Phase, PhaseOutcome, PhaseTime, Progress};
pub use critical_path::{Step, critical_path};
pub use exit::{Exit, signal_name};
pub use explain::{BACKGROUND, Background};

use serde::{Deserialize, Serialize};

/// State of one GPU.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum GpuState {
    /// On the PCI bus, not bound to a driver yet.
    #[default]
    Found,
    /// The driver does not support it.
    Unsupported,
    /// Bound to the driver, not opened yet.
    Bound,
    /// The adapter is being initialised.
    Initialising,
    /// Open and held: usable.
    Ready,
    /// Initialisation failed.
    Failed,
    /// It was usable, but is no longer on the bus.
    Lost,
}

/// A GPU error that the driver reported, with NVIDIA's number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Xid {
    /// NVIDIA's number.
    pub code: u32,
    /// Number of occurrences.
    pub count: u32,
    /// Time of the last occurrence, in milliseconds since the kernel started.
    pub last_ms: u64,
}

/// One GPU.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Gpu {
    /// PCI address, `0000:01:00.0`.
    pub bdf: String,
    /// PCI vendor id.
    pub vendor: u16,
    /// PCI device id.
    pub device: u16,
    /// The driver's name for it.
    pub model: Option<String>,
    /// `N` of /dev/nvidiaN.
    pub minor: Option<u32>,
    /// UUID, when the driver knows it.
    pub uuid: Option<String>,
    /// Version of the GSP firmware, when it runs.
    pub firmware: Option<String>,
    /// State.
    pub state: GpuState,
    /// What the initialisation waits for, while it does.
    pub waits_for: Option<String>,
    /// Start of its initialisation, in milliseconds since the kernel started.
    pub init_start_ms: Option<u64>,
    /// Duration of its initialisation in milliseconds.
    pub init_ms: Option<u64>,
    /// Errors that the driver reported since the boot.
    pub xids: Vec<Xid>,
    /// Number of older Xids that were dropped for newer ones.
    pub xids_left_out: u32,
    /// Kernel log lines about it.
    pub evidence: Vec<String>,
}

/// A device node that was created.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Node {
    /// Path.
    pub path: String,
    /// Major number.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// A driver file or link in the container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Injected {
    /// Path in the container.
    pub path: String,
    /// Target of the link; `None` for a file.
    pub link: Option<String>,
}

/// The loader cache.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Cache {
    /// Entries in it.
    pub entries: u32,
    /// Its size in bytes.
    pub bytes: u64,
    /// Links created or changed for it.
    pub links: u32,
}

/// Which file the container's loader opens for a name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Resolved {
    /// `libcuda.so.1`.
    pub name: String,
    /// The file, with links resolved; `None`: it is not found.
    pub path: Option<String>,
    /// The driver version in that file's name.
    pub version: Option<String>,
    /// Whether it is the file that was injected.
    pub ours: bool,
}

/// The container's program.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Container {
    /// Process id in the guest: that of its namespace's PID 1, or 1 if the image's init is PID 1 of the guest.
    pub pid: u32,
    /// Its command.
    pub command: Vec<String>,
    /// Time of its last start, in milliseconds since the kernel started.
    pub start_ms: u64,
    /// Number of restarts.
    pub restarts: u32,
    /// How it ended; `None` while it runs, also after a restart.
    pub exit: Option<Exit>,
    /// How its previous run ended, after a restart.
    pub last_exit: Option<Exit>,
    /// Number of its processes that the kernel's out-of-memory killer has ended.
    pub oom_kills: u64,
    /// The last lines of its output.
    pub output: Vec<String>,
}

/// Memory of the guest in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Memory {
    /// Memory that the kernel manages.
    pub total: u64,
    /// Memory that programs can still use without swapping.
    pub available: u64,
    /// Maximum resident memory of guest-init itself.
    pub init: u64,
}

/// Exit status of a program that SIGTERM ended.
const STOPPED: i32 = 143;

/// The status of a guest.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Status {
    /// Version of guest-init.
    pub version: String,
    /// Kernel release.
    pub kernel: String,
    /// Version of the driver in the manifest.
    pub driver_planned: Option<String>,
    /// Version of the loaded driver.
    pub driver_loaded: Option<String>,
    /// Current phase of the boot.
    pub phase: Phase,
    /// Outcome of the boot.
    pub outcome: Outcome,
    /// Milliseconds since the kernel started.
    pub uptime_ms: u64,
    /// The guest's memory now.
    pub memory: Option<Memory>,
    /// Number of the newest event.
    pub events: u64,
    /// Times of the phases so far.
    pub phases: Vec<PhaseTime>,
    /// The GPUs that the host promised: a number or PCI ids; `None`: at least one, or no GPU was requested.
    pub gpus_expected: Option<String>,
    /// GPUs by PCI address.
    pub gpus: Vec<Gpu>,
    /// Device nodes.
    pub nodes: Vec<Node>,
    /// Driver files and links in the container.
    pub injected: Vec<Injected>,
    /// The loader cache.
    pub cache: Option<Cache>,
    /// What the loader will open.
    pub resolved: Vec<Resolved>,
    /// The container.
    pub container: Option<Container>,
    /// The findings.
    pub findings: Vec<Finding>,
}

impl Status {
    /// Returns why the guest shuts down, in one line.
    pub fn reason(&self) -> String {
        if let Some(exit) = self.exit() {
            return format!("the container ended: {exit}");
        }
        if self.is_stopped() {
            return "the guest was stopped before its program started".into();
        }
        match self.fatal().or(self.findings.last()) {
            Some(finding) => format!("the boot failed: {}: {}", finding.code.name(), finding.message),
            None => "the boot failed".into(),
        }
    }

    /// Returns the first error. The finding that ended the boot comes before other errors.
    pub fn fatal(&self) -> Option<&Finding> {
        self.findings.iter().find(|finding| finding.severity == Severity::Error)
    }

    /// Returns the exit status as in a shell: that of the program, 1 for a failed boot, and that of SIGTERM (143) if the guest was
    /// stopped before its program started.
    pub fn exit_status(&self) -> i32 {
        let without = if self.is_stopped() { STOPPED } else { 1 };
        self.exit().map_or(without, Exit::shell_status)
    }

    /// Returns whether the guest was stopped before its program started.
    pub fn is_stopped(&self) -> bool {
        self.phase == Phase::Exited && self.outcome == Outcome::Pending && self.container.is_none()
    }

    fn exit(&self) -> Option<Exit> {
        self.container.as_ref()?.exit.filter(|_| self.outcome != Outcome::Failed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_says_why_and_what_a_shell_would() {
        let finding = Finding {
            code: Code::NoGpu,
            severity: Severity::Error,
            at_ms: 0,
            message: "there is none".into(),
            evidence: Vec::new(),
            hint: String::new(),
            link: String::new(),
        };
        let status = Status { outcome: Outcome::Failed, findings: vec![finding], ..Status::default() };
        assert_eq!(status.reason(), "the boot failed: no-gpu: there is none");
        assert_eq!(status.exit_status(), 1);
        let exit = Exit { code: None, signal: Some(9), oom: true };
        let container = Container {
            pid: 9,
            command: Vec::new(),
            start_ms: 0,
            restarts: 0,
            exit: Some(exit),
            last_exit: None,
            oom_kills: 0,
            output: Vec::new(),
        };
        let status = Status { container: Some(container), ..Status::default() };
        assert_eq!(status.reason(), "the container ended: killed by SIGKILL, out of memory");
        assert_eq!(status.exit_status(), 137);
    }
}
