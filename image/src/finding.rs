//! What can be wrong, under names that stay: each with its proof and its remedy.

use serde::{Deserialize, Serialize};

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
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
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
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
    /// NVSwitches are there, and no fabric manager: CUDA will refuse to start (error 802).
    FabricNotReady,
    /// The GPU still runs the firmware of its last user; the host has to reset it.
    Wpr2AlreadyUp,
    /// The driver reported an error of a GPU (Xid).
    GpuXid,
    /// A GPU that was usable is on the bus no more.
    GpuLost,
    /// The nvidia-uvm module, without which there is no CUDA, is not there.
    UvmMissing,
    /// A device node could not be made right.
    NodeFailed,
    /// Another file is where a device node belongs.
    NodeConflict,
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
    /// The guest has too little memory for what it is to do.
    LowMemory,
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
        name(self)
    }

    /// Where the README explains it.
    pub fn link(self) -> String {
        format!("README.md#{}", self.name())
    }
}

/// The name under which a variant without fields stands in JSON, and everywhere else.
pub fn name(variant: impl Serialize) -> String {
    serde_json::to_value(variant).ok().and_then(|json| json.as_str().map(str::to_owned)).unwrap_or_default()
}

/// A named failure with its proof and its remedy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Finding {
    /// Its name.
    pub code: Code,
    /// How bad it is.
    pub severity: Severity,
    /// When it was found, milliseconds since the kernel started.
    pub at_ms: u64,
    /// What was expected and what was found, where.
    pub message: String,
    /// Kernel-log lines, paths, errno.
    pub evidence: Vec<String>,
    /// What to do.
    pub hint: String,
    /// Where it is explained.
    pub link: String,
}
