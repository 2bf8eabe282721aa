//! Findings: what can be wrong, under names that stay. Each has its evidence, and its remedy from one table, which a test compares with
//! docs/findings.md.

use crate::text::name;
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

/// What there is to know of a code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Explanation {
    /// The code.
    pub code: Code,
    /// What it means: one sentence.
    pub meaning: &'static str,
    /// What to do: two sentences at most, as Markdown.
    pub remedy: &'static str,
}

/// The codes with their meanings, which the JSON Schemas have, too, and their remedies.
macro_rules! codes {
    ($(#[doc = $meaning:tt] $code:ident => $remedy:literal,)+) => {
        /// Names of failures. Stable: scripts match on them.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
        #[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
        #[serde(rename_all = "kebab-case")]
        pub enum Code {
            $(#[doc = $meaning] $code,)+
        }

        /// Every code, in the order of their numbers on the wire. guest-init says what to do in words of its own, about
        /// the case at hand, and has no use for these.
        pub const CODES: &[Explanation] = &[
            $(Explanation { code: Code::$code, meaning: $meaning.trim_ascii(), remedy: $remedy },)+
        ];
    };
}

codes! {
    /// The host promised a GPU and PCI shows none.
    NoGpu =>
        "Bind the GPU to vfio-pci on the host, as `host-builder doctor` says, and give it to the VMM: `host-builder boot --vfio BDF`. For a guest without a GPU leave `HAS_GPU=1` out.",
    /// The guest has other GPUs than the host promised, or another number of them.
    GpuCountMismatch =>
        "Compare `gpu_initrd.gpus`, or `gpus` in `config.json`, with the devices that the VMM was given; the evidence lists those that the guest has.",
    /// The driver does not know the GPU.
    GpuUnsupported =>
        "Build the initrd with a driver that supports it: `host-builder pins update --driver VERSION`, then `build-initrd`; `host-builder doctor IMAGE` asks the driver's own list before the boot. NVIDIA's open modules need Turing or newer.",
    /// The adapter did not come up.
    AdapterInitFailed =>
        "Reset the GPU on the host (unbind it, `echo 1 > /sys/bus/pci/devices/BDF/reset`, bind it to vfio-pci again); if it stays so, look up the Xid and the RmInitAdapter code of the evidence in NVIDIA's documentation. If the adapter is only slow, raise `gpu_initrd.gpu_timeout`.",
    /// The driver asked for firmware that is not there.
    FirmwareMissing =>
        "Build the initrd again with the driver's firmware package (`[firmware]` of the profile) and with this GPU in `--gpu`, if that was given. Where the message names firmware_class, boot a kernel with CONFIG_FW_LOADER, or build with `--payload files`.",
    /// A module of the plan is not in the image, or cannot be read.
    ModuleMissing =>
        "The image is incomplete: build the initrd again; `host-builder verify IMAGE` lists what an image lacks.",
    /// The kernel refused a module's signature.
    ModuleRejected =>
        "Boot a kernel that does not enforce module signatures (`module.sig_enforce`, lockdown), or sign the modules with its key: `host-builder build-modules --sign-key KEY --sign-cert CERT`.",
    /// A module was built for another kernel.
    KernelMismatch =>
        "Boot the kernel that `build-initrd` wrote beside the initrd (`--kernel-output`). For another kernel, `host-builder build-modules` makes modules.",
    /// The kernel refused a module for another reason.
    ModuleFailed =>
        "Look at the kernel's lines in the evidence. A missing symbol asks for the kernel that `build-initrd` wrote beside the initrd, a bad parameter for a correct `MODULE.PARAMETER=VALUE` on the kernel command line.",
    /// Loaded driver and plan are of different versions.
    ModuleVersionMismatch =>
        "Build the initrd again: modules and libraries must carry one version, to the last digit.",
    /// NVSwitches are there, and no fabric manager: CUDA will refuse to start (error 802).
    FabricNotReady =>
        "Run NVIDIA's fabric manager of the driver's version: on the host, with the switches kept there, or in the container. Or cut single GPUs off with `nvidia.NVreg_NvLinkDisable=1` on the kernel command line.",
    /// The GPU still runs the firmware of its last user; the host has to reset it.
    Wpr2AlreadyUp =>
        "Reset the GPU on the host before the guest gets it: `echo 1 > /sys/bus/pci/devices/BDF/reset`. Where it has no reset, reset the whole bus, or boot the host again.",
    /// The driver reported an error of a GPU (Xid).
    GpuXid =>
        "Look the number up in NVIDIA's list of Xid errors: 13, 31 and 43 are most often the program's own, 48, 63, 64, 74, 79, 94 and 95 the hardware's. `host-builder logs TARGET --kernel` has the driver's other lines.",
    /// A GPU that was usable is on the bus no more.
    GpuLost =>
        "End the guest, look at the host's kernel log (PCIe errors, power, heat), reset the GPU there, and start a new guest.",
    /// The nvidia-uvm module, without which there is no CUDA, is not there.
    UvmMissing =>
        "Build the initrd again with the module nvidia-uvm. If it was there, the other findings say why it did not load.",
    /// A device node could not be made right.
    NodeFailed =>
        "Look at the path that the message names: another file may be in its place, or `/dev` may be full or read-only.",
    /// Another file is where a device node belongs.
    NodeConflict =>
        "The file has been replaced. Find out what made it: another driver in the guest's kernel may want that name, and does not have it now.",
    /// The container root could not be mounted.
    RootUnusable =>
        "Attach the root as a virtio disk with serial `root`, or name it: `gpu_initrd.root=/dev/NAME`, `serial:NAME` or `virtiofs:TAG`. Where the message names the upper layer, give `gpu_initrd.upper` an ext4 disk that can be written, or `tmpfs`.",
    /// Driver files could not be put into the root.
    InjectFailed =>
        "Correct the path that the message names: a broken `/usr/lib` or `/etc` of the image, or an upper layer that hides the files and has to be made anew. Where the files cannot be a layer, boot the kernel that `build-initrd` wrote beside the initrd (Linux 6.5 or later), or build with `--payload files`.",
    /// The loader cache could not be written.
    CacheFailed =>
        "Remove from the image what is in the way, at the path that the message names. Until then the container's programs may not find the driver.",
    /// The container's loader would open another file than the injected one.
    LibraryShadowed =>
        "Remove the image's own driver files, or `LD_LIBRARY_PATH` from its environment, or have them hidden: `gpu_initrd.driver_files=mask`.",
    /// A configuration value is bad.
    ConfigInvalid =>
        "Correct what the message names: a key of the kernel command line, `config.json` in the top directory of the config disk, or a variable `NVIDIA_…` of the environment. Where there is no command, give `entrypoint` or `cmd`, or write it after ` -- `.",
    /// A configuration key is unknown.
    ConfigUnknownKey =>
        "Correct its spelling, or leave it out: the tables of the [kernel command line](booting.md#kernel-command-line) and the [config disk](booting.md#config-disk) have every key.",
    /// The initrd's plan is missing or bad.
    ManifestInvalid =>
        "Build the initrd again, with one release of host-builder and guest-init: `host-builder build-initrd`.",
    /// The initrd carries no driver.
    NoDriver =>
        "Build an initrd with a driver (`host-builder build-initrd`), or boot without `HAS_GPU=1`.",
    /// The program is not in the image.
    EntrypointNotFound =>
        "Correct `entrypoint` and `cmd`, or `PATH` in the image's environment.",
    /// The program is there and cannot be executed.
    EntrypointNotExecutable =>
        "Make it executable (`chmod +x`), and a program for this machine. Where its interpreter or loader is missing, use an image that has it: a glibc program does not run in an Alpine image.",
    /// The kernel's out-of-memory killer struck in the container.
    OomKilled =>
        "Give the guest more memory (`host-builder boot --memory MIB`), or the program less work.",
    /// The guest has too little memory for what it is to do.
    LowMemory =>
        "Give the guest more memory, or pack less: `--payload disk`, fewer `--capabilities`. `build-initrd` says how much memory a guest needs at least.",
    /// The image has no glibc, which the driver's libraries need; it gets the device nodes only.
    ImageHasNoGlibc =>
        "Use an image with glibc (Debian, Ubuntu, RHEL, distroless), or add glibc to this one.",
    /// The image is of Nix or Guix: its programs find the driver only in /run/opengl-driver/lib.
    ImageIsNix =>
        "Nothing, where the evidence says that the program looks there. For other programs of the store set `LD_LIBRARY_PATH=/run/opengl-driver/lib`.",
    /// The image brings driver files of its own along.
    ImageBundlesDriver =>
        "Remove them from the image: it needs no driver. Or have them hidden, as they are by default: `gpu_initrd.driver_files=mask`.",
    /// What was decided about the image's CUDA compatibility libraries.
    CudaCompat =>
        "Nothing: the message says whether they are used, and why.",
    /// The container asks for a capability that the initrd does not carry.
    CapabilityMissing =>
        "Build the initrd with all that the container asks for: `build-initrd --capabilities LIST`. Or take it out of `NVIDIA_DRIVER_CAPABILITIES`.",
    /// The image requires another driver or CUDA version than the initrd carries.
    CudaRequirementUnmet =>
        "Build the initrd with a newer driver (`host-builder pins update --driver VERSION`), use an image for this one, or set `NVIDIA_DISABLE_REQUIRE=1`.",
    /// The root has no room for the driver's files.
    NoSpace =>
        "Give the root's disk more room: the message has the bytes needed and free. Or boot with an overlay (`gpu_initrd.upper=tmpfs`): then nothing is copied.",
    /// The disk with the driver's files did not appear.
    PayloadDiskMissing =>
        "Attach the disk that `build-initrd` wrote beside this very initrd (`--payload-output`), read-only.",
    /// The driver's files are not those that the initrd was built with.
    PayloadAltered =>
        "Attach the disk that `build-initrd` wrote beside this very initrd. If it is that one, build both again.",
    /// The kernel cannot mount the driver's files.
    PayloadUnusable =>
        "Boot the kernel that `build-initrd` wrote beside the initrd, or build it with `--payload files`.",
    /// guest-init itself failed.
    Internal =>
        "It is a defect of guest-init or of the guest's kernel, or the guest is out of memory: report it with `status --json` and `logs --kernel`.",
    /// A volume of the container could not be mounted, or not where it should be.
    VolumeUnusable =>
        "Attach the disk that the message names, with a file system that the guest knows, and give it a place in the image that is no file and not below /proc, /sys or /dev (but for /dev/shm).",
    /// The driver did not take a GPU that it may well support.
    GpuNotBound =>
        "The message says why, from the driver's own lines: a GPU that has fallen off the bus is reset on the host; one whose memory has no address needs larger windows for PCI memory from the VMM; one that another driver has needs a kernel without that.",
    /// Files of the driver need a newer glibc than the image has.
    LibcTooOld =>
        "Use a newer base for the image. Where the message says that they are left out, the container has not asked for them by name, and needs nothing.",
    /// The disk of a volume did not appear.
    VolumeMissing =>
        "Attach the disk that the message names, with that serial number: `host-builder boot --volume DISK:PATH`. A disk that comes late is waited for as long as `gpu_initrd.disk_timeout` says.",
    /// A program that every driver has is not among the driver's files, or is a script in its place.
    DriverFileMissing =>
        "Build the initrd from packages that have the driver's own programs, which the evidence names: `host-builder pins add`. The container's libraries are not concerned.",
}

impl Code {
    /// The code as it is written everywhere.
    pub fn name(self) -> String {
        name(self)
    }

    /// Where the documentation explains it.
    pub fn link(self) -> String {
        format!("docs/findings.md#{}", self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_meaning_is_a_sentence_and_a_remedy_no_more_than_two() {
        for row in CODES {
            assert!(row.meaning.ends_with('.') && !row.meaning.contains(". "), "{row:?}");
            assert!(row.remedy.ends_with('.') && row.remedy.matches(". ").count() < 2, "{row:?}");
        }
    }

    /// No code is listed twice, and each stands where its number says.
    #[test]
    fn the_table_is_in_the_order_of_the_wire() {
        for (at, row) in CODES.iter().enumerate() {
            assert_eq!(row.code as usize, at, "{row:?}");
        }
    }
}
