//! What can be wrong with the GPUs of a guest.

use super::pci::PciGpu;
use crate::kernel::modules::LoadError;
use std::io;

/// A problem with a GPU, with the driver, or with what the image requires of it.
#[derive(Debug, thiserror::Error)]
pub enum GpuError {
    /// A module of the driver was not loaded.
    #[error(transparent)]
    Module(#[from] LoadError),
    /// The loaded driver differs from the one in the manifest.
    #[error("the loaded driver has version {loaded}, but the initrd's libraries have version {planned}")]
    VersionMismatch {
        /// Version of the loaded driver.
        loaded: String,
        /// Version in the manifest.
        planned: String,
    },
    /// CUDA's module is not there.
    #[error("nvidia-uvm is not in /proc/devices: CUDA cannot start (error 3 or 999)")]
    UvmMissing,
    /// NVSwitches need a fabric manager; an initrd contains none.
    #[error(
        "this guest has {} NVSwitches but runs no fabric manager: unless the container runs one, CUDA fails with error 802 (system not yet initialized)",
        .switches.len()
    )]
    NoFabricManager {
        /// The switches.
        switches: Vec<PciGpu>,
    },
    /// The driver's description of its GPUs or nodes cannot be read.
    #[error("cannot read the driver's /proc files{of}")]
    Proc {
        /// ` for GPU …`, or empty.
        of: String,
        /// The error of the system.
        source: io::Error,
    },
    /// A device node could not be created.
    #[error("{0}")]
    Node(io::Error),
    /// A device node was created in place of another file.
    #[error("{path} was {what}, which has been replaced")]
    NodeReplaced {
        /// The node.
        path: String,
        /// The file that was there.
        what: String,
    },
    /// The driver did not bind a GPU on the bus.
    #[error("GPU {} ({:04x}:{:04x}){why}", .gpu.bdf, .gpu.vendor, .gpu.device)]
    NotBound {
        /// The GPU.
        gpu: PciGpu,
        /// Why not.
        why: NotBound,
        /// The driver's lines about it.
        log: Vec<String>,
    },
    /// An adapter did not initialise.
    #[error("GPU {bdf}{why}")]
    Adapter {
        /// The GPU's address.
        bdf: String,
        /// Why not.
        why: AdapterFailure,
        /// The driver's lines about it.
        log: Vec<String>,
    },
    /// `NVIDIA_VISIBLE_DEVICES` requests something that the guest does not have.
    #[error("NVIDIA_VISIBLE_DEVICES requests {what}")]
    NotVisible {
        /// What it requests, and what was expected.
        what: String,
        /// The GPUs of this guest, one per line.
        present: Vec<String>,
    },
    /// The image requires another driver, `NVIDIA_REQUIRE_…`.
    #[error("the image requires {name}, but the initrd contains driver {driver} with CUDA {cuda}: {why}")]
    RequirementUnmet {
        /// Name of the variable.
        name: String,
        /// Its value.
        value: String,
        /// Version of the driver.
        driver: String,
        /// Version of CUDA.
        cuda: String,
        /// Which part is not met, or why it cannot be read.
        why: String,
    },
}

/// Why the driver did not bind a GPU. The text follows the name of the GPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotBound {
    /// It does not respond on the bus.
    #[error(" is on the bus but does not respond to the driver: it has fallen off the bus")]
    OffTheBus,
    /// The guest's PCI windows are too small for its memory.
    #[error(
        " has memory without an address: the guest's PCI windows are too small for its BARs; host-builder doctor prints their size"
    )]
    NoAddress,
    /// Another driver of the kernel uses its registers.
    #[error(
        ": another driver in the guest's kernel has claimed its registers (disable frame buffers and nouveau: video=efifb:off, nouveau.modeset=0)"
    )]
    RegistersClaimed,
    /// Another driver is bound to it.
    #[error(" is bound to another driver")]
    OtherDriver,
    /// It needs NVIDIA's open modules.
    #[error(" is supported only by NVIDIA's open modules, but the initrd contains other ones")]
    NeedsOpenModules,
    /// This driver does not support it.
    #[error(" is not supported by this driver")]
    Unsupported,
    /// The driver gives no reason.
    #[error(" was not bound by the driver")]
    Unexplained,
}

impl NotBound {
    /// Returns whether this driver cannot drive the GPU at all.
    pub fn is_unsupported(self) -> bool {
        matches!(self, Self::NeedsOpenModules | Self::Unsupported)
    }
}

/// Why an adapter did not initialise. The text follows the name of the GPU.
#[derive(Debug, thiserror::Error)]
pub enum AdapterFailure {
    /// Firmware is missing.
    #[error(" requires firmware /lib/firmware/{name}, which is not in the initrd")]
    FirmwareMissing {
        /// Its name below the firmware directory.
        name: String,
    },
    /// The GPU runs the firmware of an earlier guest.
    #[error(" still runs the firmware of its previous user, which this guest cannot stop")]
    Wpr2AlreadyUp,
    /// The driver ran out of memory.
    #[error(": the driver ran out of memory while it initialised the adapter ({0})")]
    OutOfMemory(io::Error),
    /// The initialisation failed.
    #[error(": the adapter failed to initialise ({0})")]
    Initialisation(io::Error),
    /// Its device node cannot be opened, and the driver does not say why.
    #[error(": cannot open its device node: {0}")]
    Open(io::Error),
    /// It took too long.
    #[error(" did not initialise within {seconds} s{after}")]
    Timeout {
        /// The deadline in seconds.
        seconds: u64,
        /// ` after the previous one`, or empty.
        after: &'static str,
    },
}
