//! What a guest reports about itself. `status --json` prints exactly these types.

mod exit;
pub mod finding;

pub use self::finding::{Code, Finding, Severity};
pub use exit::Exit;

use serde::{Deserialize, Serialize};

/// Steps of a boot, in the order they are reached. The GPU and the root are worked on at the same time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
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
    /// The driver's files become available: an image of the initrd or a disk of its own is mounted.
    Payload,
    /// Driver modules, nodes, adapter initialisation.
    Gpu,
    /// The container root is mounted.
    Root,
    /// Driver files go into the root.
    Inject,
    /// The loader cache is written.
    Cache,
    /// The program is being started.
    Exec,
    /// The program runs.
    Running,
    /// The program has ended.
    Exited,
}

/// How the whole boot stands.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// Still booting.
    #[default]
    Pending,
    /// The container was started: with every GPU, or with `gpu=optional`, and then the findings say what is missing.
    Ready,
    /// The boot ended without a container; the findings say why.
    Failed,
}

/// How one phase went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum PhaseOutcome {
    /// It is under way.
    Running,
    /// Good.
    Done,
    /// There was nothing to do.
    Skipped,
    /// Bad; a finding says why.
    Failed,
}

/// How far a phase has come, in steps of its own: modules loaded, GPUs initialised.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Progress {
    /// Steps that are over.
    pub done: u32,
    /// All steps.
    pub total: u32,
}

/// Times of one phase, milliseconds since the kernel started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct PhaseTime {
    /// Which.
    pub phase: Phase,
    /// When it began.
    pub start_ms: u64,
    /// When it ended.
    pub end_ms: Option<u64>,
    /// How it went.
    pub outcome: PhaseOutcome,
    /// How far it has come, where that is known.
    pub progress: Option<Progress>,
}

/// State of one GPU.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum GpuState {
    /// On the PCI bus; no driver yet.
    #[default]
    Found,
    /// The driver refused it.
    Unsupported,
    /// The driver is bound, nothing was opened yet.
    Bound,
    /// The adapter is being initialised.
    Initialising,
    /// Open and held: usable.
    Ready,
    /// Initialisation failed.
    Failed,
    /// It was usable, and is on the bus no more.
    Lost,
}

/// An error that the driver reported of a GPU, by NVIDIA's number for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Xid {
    /// NVIDIA's number.
    pub code: u32,
    /// How often it came.
    pub count: u32,
    /// When it came last, milliseconds since the kernel started.
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
    /// UUID, once the driver knows it.
    pub uuid: Option<String>,
    /// Version of the GSP firmware, once it runs.
    pub firmware: Option<String>,
    /// State.
    pub state: GpuState,
    /// What is waited for, while something is.
    pub waits_for: Option<String>,
    /// When its initialisation began, milliseconds since the kernel started.
    pub init_start_ms: Option<u64>,
    /// What its initialisation took, milliseconds.
    pub init_ms: Option<u64>,
    /// Errors that the driver reported since the boot.
    pub xids: Vec<Xid>,
    /// Numbers that made room for newer ones.
    pub xids_left_out: u32,
    /// Kernel-log lines about it.
    pub evidence: Vec<String>,
}

/// A device node that was made.
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
    /// What the link says; `None` for a file.
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
    /// Links that were made or changed on the way.
    pub links: u32,
}

/// Which file the container's loader opens for a name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Resolved {
    /// `libcuda.so.1`.
    pub name: String,
    /// The file, links followed; `None`: it would not be found.
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
    /// Its process id in the guest: of the PID 1 of its namespace, or 1, where the image's init is the guest's.
    pub pid: u32,
    /// Its command.
    pub command: Vec<String>,
    /// When it was started, the last time, milliseconds since the kernel started.
    pub start_ms: u64,
    /// How often it was started again.
    pub restarts: u32,
    /// How it ended, once it has; nothing while it has been started again.
    pub exit: Option<Exit>,
    /// How its run before this one ended, where it was started again.
    pub last_exit: Option<Exit>,
    /// Processes of it that the kernel's out-of-memory killer has ended.
    pub oom_kills: u64,
    /// The last lines of its output.
    pub output: Vec<String>,
}

/// Memory of the guest, bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Memory {
    /// What the kernel manages.
    pub total: u64,
    /// What programs can still have without swapping.
    pub available: u64,
    /// The most that guest-init itself has had resident.
    pub init: u64,
}

/// Everything a guest knows about itself.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Status {
    /// Version of guest-init.
    pub version: String,
    /// Kernel release.
    pub kernel: String,
    /// Version of the driver in the plan.
    pub driver_planned: Option<String>,
    /// Version of the driver that is loaded.
    pub driver_loaded: Option<String>,
    /// Where the boot is.
    pub phase: Phase,
    /// How it stands.
    pub outcome: Outcome,
    /// Milliseconds since the kernel started.
    pub uptime_ms: u64,
    /// The guest's memory now.
    pub memory: Option<Memory>,
    /// Number of the newest event.
    pub events: u64,
    /// Times of the phases so far.
    pub phases: Vec<PhaseTime>,
    /// The GPUs that the host promised: a number, or PCI ids; `None`: at least one, or none were asked for.
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
    /// What is wrong.
    pub findings: Vec<Finding>,
}

impl Status {
    /// Why the guest ends, in one line.
    pub fn reason(&self) -> String {
        if let Some(exit) = self.exit() {
            return format!("the container ended: {exit}");
        }
        match self.fatal().or(self.findings.last()) {
            Some(finding) => format!("the boot failed: {}: {}", finding.code.name(), finding.message),
            None => "the boot failed".into(),
        }
    }

    /// What went wrong: the first error. What ended the boot is put before what it survived.
    pub fn fatal(&self) -> Option<&Finding> {
        self.findings.iter().find(|finding| finding.severity == Severity::Error)
    }

    /// As a shell would say it: the program's, or 1 for a boot that failed.
    pub fn exit_status(&self) -> i32 {
        self.exit().map_or(1, Exit::shell_status)
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
