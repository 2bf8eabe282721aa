//! What a guest reports about itself. `status --json` prints exactly these types.

use serde::{Deserialize, Serialize};

/// Steps of a boot, in the order they are reached. The GPU and the root are worked on at the same time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// File systems, console, command line.
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// Still booting.
    Pending,
    /// The container was started: with every GPU, or with `gpu=optional`, and then the findings say what is missing.
    Ready,
    /// The boot ended without a container; the findings say why.
    Failed,
}

/// How one phase went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
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

/// Times of one phase, milliseconds since the kernel started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PhaseTime {
    /// Which.
    pub phase: Phase,
    /// When it began.
    pub start_ms: u64,
    /// When it ended.
    pub end_ms: Option<u64>,
    /// How it went.
    pub outcome: PhaseOutcome,
}

/// State of one GPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GpuState {
    /// On the PCI bus; no driver yet.
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
}

/// One GPU.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
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
    /// What its initialisation took, milliseconds.
    pub init_ms: Option<u64>,
    /// Kernel-log lines about it.
    pub evidence: Vec<String>,
}

/// A device node that was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
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
pub struct Injected {
    /// Path in the container.
    pub path: String,
    /// What the link says; `None` for a file.
    pub link: Option<String>,
}

/// The loader cache.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
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
pub struct Container {
    /// Its process id.
    pub pid: u32,
    /// Its command.
    pub command: Vec<String>,
    /// How it ended, once it has.
    pub exit: Option<Exit>,
}

/// How a program ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// Exit code, when it exited.
    pub code: Option<i32>,
    /// Signal, when one killed it.
    pub signal: Option<i32>,
    /// The kernel's out-of-memory killer ended it, or a part of it.
    pub oom: bool,
}

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// Worth knowing.
    Info,
    /// Something will not work.
    Warning,
    /// The boot, or the GPU, failed.
    Error,
}

/// Names of failures. Stable: scripts match on them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Code {
    /// The host promised a GPU and PCI shows none.
    NoGpu,
    /// Others or another number than expected.
    GpuCountMismatch,
    /// The driver does not know the GPU.
    GpuUnsupported,
    /// The adapter did not come up.
    AdapterInitFailed,
    /// The driver asked for firmware that is not there.
    FirmwareMissing,
    /// A module of the plan is not in the image, or cannot be read.
    ModuleMissing,
    /// The kernel refused a module's signature.
    ModuleRejected,
    /// A module was built for another kernel.
    KernelMismatch,
    /// The kernel refused a module for another reason.
    ModuleFailed,
    /// Loaded driver and plan are of different versions.
    ModuleVersionMismatch,
    /// A device node could not be made right.
    NodeFailed,
    /// The container root could not be mounted.
    RootUnusable,
    /// Driver files could not be put into the root.
    InjectFailed,
    /// The loader cache could not be written.
    CacheFailed,
    /// The container's loader would open another file than the injected one.
    LibraryShadowed,
    /// A configuration value is bad.
    ConfigInvalid,
    /// A configuration key is unknown.
    ConfigUnknownKey,
    /// The initrd's plan is missing or bad.
    ManifestInvalid,
    /// The initrd carries no driver.
    NoDriver,
    /// The program is not in the image.
    EntrypointNotFound,
    /// The program is there and cannot be executed.
    EntrypointNotExecutable,
    /// The kernel's out-of-memory killer struck in the container.
    OomKilled,
    /// The image has no glibc, which the driver's libraries need; it gets the device nodes only.
    ImageHasNoGlibc,
    /// The image is of Nix or Guix: its programs find the driver only in /run/opengl-driver/lib.
    ImageIsNix,
    /// The image brings driver files of its own along.
    ImageBundlesDriver,
    /// What was decided about the image's CUDA compatibility libraries.
    CudaCompat,
    /// The container asks for a capability that the initrd does not carry.
    CapabilityMissing,
    /// The image requires another driver or CUDA version than the initrd carries.
    CudaRequirementUnmet,
    /// The root has no room for the driver's files.
    NoSpace,
    /// The disk with the driver's files did not appear.
    PayloadDiskMissing,
    /// The driver's files are not those that the initrd was built with.
    PayloadAltered,
    /// The kernel cannot mount the driver's files.
    PayloadUnusable,
    /// guest-init itself failed.
    Internal,
}

impl Code {
    /// The code as it is written everywhere.
    pub fn name(self) -> String {
        serde_json::to_value(self).ok().and_then(|json| json.as_str().map(str::to_owned)).unwrap_or_default()
    }
}

/// A named failure with its proof and its remedy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// Its name.
    pub code: Code,
    /// How bad it is.
    pub severity: Severity,
    /// What was expected and what was found, where.
    pub message: String,
    /// Kernel-log lines, paths, errno.
    pub evidence: Vec<String>,
    /// What to do.
    pub hint: String,
}

/// Everything a guest knows about itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
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
    /// Times of the phases so far.
    pub phases: Vec<PhaseTime>,
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
