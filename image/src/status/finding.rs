//! Findings: known problems with stable codes, evidence and a remedy. A test compares the table of codes with docs/findings.md.

use crate::text::name;
use serde::{Deserialize, Serialize};

/// Severity of a finding.
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

/// A problem with a stable code, its evidence and its remedy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Finding {
    /// Stable code of the problem.
    pub code: Code,
    /// Severity.
    pub severity: Severity,
    /// Time at which it was found, in milliseconds since the kernel started.
    pub at_ms: u64,
    /// What failed, what was found and what was expected.
    pub message: String,
    /// Kernel log lines, paths and errno values.
    pub evidence: Vec<String>,
    /// Remedy of the code ([`Code::remedy`]), for readers that do not know the code.
    pub hint: String,
    /// Place in the documentation that explains the code.
    pub link: String,
}

/// Meaning and remedy of one code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Explanation {
    /// The code.
    pub code: Code,
    /// Meaning of the code, in one sentence.
    pub meaning: &'static str,
    /// Remedy in at most two sentences of Markdown.
    pub remedy: &'static str,
}

/// Defines the codes with their meanings, which the JSON Schemas contain too, and their remedies.
macro_rules! codes {
    ($(#[doc = $meaning:tt] $code:ident => $remedy:literal,)+) => {
        /// Stable codes of findings. Scripts match on them.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
        #[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
        #[serde(rename_all = "kebab-case")]
        pub enum Code {
            $(#[doc = $meaning] $code,)+
        }

        /// Every code, in the order of their numbers on the wire.
        pub const CODES: &[Explanation] = &[
            $(Explanation { code: Code::$code, meaning: $meaning.trim_ascii(), remedy: $remedy },)+
        ];
    };
}

codes! {
    /// The host promised a GPU, but there is no NVIDIA GPU on the guest's PCI bus.
    NoGpu =>
        "Bind the GPU to vfio-pci on the host (`host-builder doctor` says how) and pass it to the VMM: `host-builder boot --vfio BDF`. To boot without a GPU, omit `HAS_GPU=1`.",
    /// The guest's GPUs differ in number or type from those that the host promised.
    GpuCountMismatch =>
        "Compare `gpu_initrd.gpus`, or `gpus` in `config.json`, with the devices passed to the VMM. The evidence lists the GPUs in the guest.",
    /// The driver does not support the GPU.
    GpuUnsupported =>
        "Build the initrd with a driver that supports the GPU: `host-builder pins update --driver VERSION`, then `build-initrd`; `host-builder doctor IMAGE` checks the driver's list of GPUs before the boot. NVIDIA's open modules require Turing or newer.",
    /// The GPU adapter failed to initialise.
    AdapterInitFailed =>
        "Reset the GPU on the host (unbind it, `echo 1 > /sys/bus/pci/devices/BDF/reset`, bind it to vfio-pci again); if it still fails, look up the Xid and the RmInitAdapter code from the evidence in NVIDIA's documentation. If the adapter is only slow, raise `gpu_initrd.gpu_timeout`.",
    /// The driver requested firmware that is missing.
    FirmwareMissing =>
        "Rebuild the initrd with the driver's firmware package (`[firmware]` in the profile) and, if you use `--gpu`, with this GPU in the list. If the message names firmware_class, boot a kernel with CONFIG_FW_LOADER, or build with `--payload files`.",
    /// A kernel module listed in the manifest is missing from the initrd or cannot be read.
    ModuleMissing =>
        "Rebuild the initrd, which is incomplete. `host-builder verify IMAGE` lists the missing files.",
    /// The kernel rejected a module's signature.
    ModuleRejected =>
        "Boot a kernel that does not enforce module signatures (`module.sig_enforce`, lockdown), or sign the modules with the kernel's key: `host-builder build-modules --sign-key KEY --sign-cert CERT`.",
    /// A module was built for a different kernel.
    KernelMismatch =>
        "Boot the kernel that `build-initrd` wrote next to the initrd (`--kernel-output`). To use a different kernel, build modules for it with `host-builder build-modules`.",
    /// The kernel rejected a module for another reason.
    ModuleFailed =>
        "Read the kernel log lines in the evidence. For a missing symbol, boot the kernel that `build-initrd` wrote next to the initrd; for a bad parameter, correct `MODULE.PARAMETER=VALUE` on the kernel command line.",
    /// The loaded driver and the manifest have different versions.
    ModuleVersionMismatch =>
        "Rebuild the initrd: modules and libraries must have exactly the same version.",
    /// The guest has NVSwitches but no fabric manager, so CUDA fails to start (error 802).
    FabricNotReady =>
        "Run NVIDIA's fabric manager, in the driver's version, either on the host, with the switches kept there, or in the container. To use each GPU without the fabric, set `nvidia.NVreg_NvLinkDisable=1` on the kernel command line.",
    /// The GPU still runs the firmware of its previous user; the host must reset it.
    Wpr2AlreadyUp =>
        "Reset the GPU on the host before you pass it to the guest: `echo 1 > /sys/bus/pci/devices/BDF/reset`. If the GPU has no reset, reset the whole bus or reboot the host.",
    /// The driver reported a GPU error (Xid).
    GpuXid =>
        "Look up the number in NVIDIA's list of Xid errors: the program usually causes 13, 31 and 43, the hardware 48, 63, 64, 74, 79, 94 and 95. `host-builder logs TARGET --kernel` prints the driver's other log lines.",
    /// A GPU that was usable is no longer on the bus.
    GpuLost =>
        "Stop the guest, check the host's kernel log (PCIe errors, power, temperature), reset the GPU on the host, and start a new guest.",
    /// The nvidia-uvm module, which CUDA requires, is not loaded.
    UvmMissing =>
        "Rebuild the initrd with the nvidia-uvm module. If the initrd has it, the other findings say why it did not load.",
    /// A device node could not be created or corrected.
    NodeFailed =>
        "Check the path in the message: another file may be in its place, or `/dev` may be full or read-only.",
    /// Another file was in the place of a device node.
    NodeConflict =>
        "Find out what created the file, which guest-init has replaced. Another driver in the guest's kernel may need that name.",
    /// The container root could not be mounted.
    RootUnusable =>
        "Attach the root as a virtio disk with serial `root`, or name it: `gpu_initrd.root=/dev/NAME`, `serial:NAME` or `virtiofs:TAG`. If the message names the upper layer, set `gpu_initrd.upper` to a writable ext4 disk or to `tmpfs`; if it names /proc, /sys, /dev or /run, remove the file that the image has there.",
    /// The driver files could not be added to the container root.
    InjectFailed =>
        "Repair the path in the message: a broken `/usr/lib` or `/etc` in the container image, or an upper layer that hides the files and must be recreated. If the files cannot form a layer, boot the kernel that `build-initrd` wrote next to the initrd (Linux 6.5 or later), or build with `--payload files`.",
    /// The loader cache could not be written.
    CacheFailed =>
        "Remove the obstacle at the path in the message from the container image. Until then the container's programs may not find the driver.",
    /// The container's loader would open a different file from the injected one.
    LibraryShadowed =>
        "Remove the image's own driver files, remove `LD_LIBRARY_PATH` from its environment, or hide the files with `gpu_initrd.driver_files=mask`.",
    /// A configuration value is invalid.
    ConfigInvalid =>
        "Correct the setting in the message: a key of the kernel command line, `config.json` in the top directory of the config disk, or an `NVIDIA_…` variable of the environment. If there is no command, set `entrypoint` or `cmd`, or write the command after ` -- `.",
    /// A configuration key is unknown.
    ConfigUnknownKey =>
        "Correct the spelling of the key, or remove it: docs/booting.md lists every key of the kernel command line and of `config.json`.",
    /// The initrd's manifest is missing or invalid.
    ManifestInvalid =>
        "Rebuild the initrd with host-builder and guest-init of the same release: `host-builder build-initrd`.",
    /// The initrd contains no driver.
    NoDriver =>
        "Build an initrd with a driver (`host-builder build-initrd`), or boot without `HAS_GPU=1`.",
    /// The program is not in the container image.
    EntrypointNotFound =>
        "Correct `entrypoint` or `cmd`, or `PATH` in the image's environment. For a program of the driver, such as nvidia-smi, boot with a GPU (`HAS_GPU=1`) and include `utility` in `NVIDIA_DRIVER_CAPABILITIES`.",
    /// The program exists but cannot be executed.
    EntrypointNotExecutable =>
        "Make the file executable (`chmod +x`) and check that it is built for this machine. If its interpreter or loader is missing, use an image that has it: a glibc program does not run in an Alpine image.",
    /// The kernel's out-of-memory killer ended a process in the container.
    OomKilled =>
        "Give the guest more memory (`host-builder boot --memory MIB`), or reduce what the program uses.",
    /// The guest has too little memory.
    LowMemory =>
        "Give the guest more memory, or build a smaller initrd: `--payload disk`, fewer `--capabilities`. `build-initrd` prints the minimum memory for a guest.",
    /// The image has no glibc, which the driver's libraries require, so the container receives only the device nodes.
    ImageHasNoGlibc =>
        "Use an image with glibc (Debian, Ubuntu, RHEL, distroless), or add glibc to this one.",
    /// The image uses Nix or Guix, whose programs find the driver only in /run/opengl-driver/lib.
    ImageIsNix =>
        "Do nothing if the evidence says that the program searches that directory. For other programs in the store, set `LD_LIBRARY_PATH=/run/opengl-driver/lib`.",
    /// The image contains its own driver files.
    ImageBundlesDriver =>
        "Remove the driver files from the image, which needs none. Or hide them, which is the default, with `gpu_initrd.driver_files=mask`.",
    /// The image contains CUDA compatibility libraries, and guest-init decided whether to use them.
    CudaCompat =>
        "Do nothing: the message says whether they are used, and why.",
    /// The container requests a driver capability that the initrd does not contain.
    CapabilityMissing =>
        "Build the initrd with every capability that the container requests: `build-initrd --capabilities LIST`. Or remove the capability from `NVIDIA_DRIVER_CAPABILITIES`.",
    /// The image requires a different driver or CUDA version from the one in the initrd.
    CudaRequirementUnmet =>
        "Build the initrd with a newer driver (`host-builder pins update --driver VERSION`), use an image for this driver, or set `NVIDIA_DISABLE_REQUIRE=1`.",
    /// The container root has no space for the driver files.
    NoSpace =>
        "Enlarge the root disk: the message says how many bytes are needed and free. Or boot with an overlay (`gpu_initrd.upper=tmpfs`), which needs no copies.",
    /// The disk with the driver files did not appear.
    PayloadDiskMissing =>
        "Attach the disk that `build-initrd` wrote together with this initrd (`--payload-output`), read-only.",
    /// The driver files differ from those that the initrd was built with.
    PayloadAltered =>
        "Attach the disk that `build-initrd` wrote together with this initrd. If that disk is attached, build both again.",
    /// The kernel cannot mount the driver files.
    PayloadUnusable =>
        "Boot the kernel that `build-initrd` wrote next to the initrd, or build the initrd with `--payload files`.",
    /// guest-init itself failed.
    Internal =>
        "Check that the guest has enough memory. If it has, report a defect in guest-init or the guest's kernel, with the output of `status --json` and `logs --kernel`.",
    /// A volume of the container could not be mounted, or not at its path.
    VolumeUnusable =>
        "Attach the disk in the message, with a file system that the guest supports. Mount it on a path that is not a file and not below /proc, /sys or /dev (except /dev/shm).",
    /// The driver did not bind a GPU that it may support.
    GpuNotBound =>
        "Read the cause in the message, which comes from the driver's log lines. If the GPU has fallen off the bus, reset it on the host; if its memory has no address, configure larger PCI memory windows in the VMM; if another driver has bound it, boot a kernel without that driver.",
    /// Some driver files require a newer glibc than the image has.
    LibcTooOld =>
        "Use a newer base image. If the message says that the files are left out, the container did not request them by name, and you need to do nothing.",
    /// The disk of a volume did not appear.
    VolumeMissing =>
        "Attach the disk in the message, with that serial number: `host-builder boot --volume DISK:PATH`. If the disk appears late, raise `gpu_initrd.disk_timeout`.",
    /// A program that every driver contains is missing from the driver files, or a script is in its place.
    DriverFileMissing =>
        "Build the initrd from packages that contain the driver's own programs, which the evidence lists: `host-builder pins add`. The container's libraries are not affected.",
    /// A step of the boot did not end within its time.
    StepTimedOut =>
        "Check the disk, the share or the GPU that the message names: it does not respond. If it is only slow, raise `gpu_initrd.step_timeout`.",
    /// A task in the guest has waited in the kernel for minutes.
    TaskHung =>
        "Check what the task waits for, which does not respond: a disk, a share or the GPU. `host-builder logs TARGET --kernel` prints its stack, after the line in the evidence.",
    /// A processor of the guest did not leave the kernel for seconds.
    CpuStuck =>
        "Check that the host is not overloaded, and has not paused the guest. If it has done neither, look for the driver in the stack that `host-builder logs TARGET --kernel` prints after the line in the evidence.",
}

impl Finding {
    /// Creates a finding. The board that it is reported to sets the time.
    pub fn new(code: Code, severity: Severity, message: impl Into<String>, evidence: Vec<String>) -> Self {
        let (message, hint, link) = (message.into(), code.remedy().into(), code.link());
        Self { code, severity, at_ms: 0, message, evidence, hint, link }
    }
}

impl Code {
    /// Returns what to do about a finding with this code, in at most two sentences.
    pub fn remedy(self) -> &'static str {
        CODES[self as usize].remedy
    }

    /// Returns the code in kebab case, as it is printed and written in JSON.
    pub fn name(self) -> String {
        name(self)
    }

    /// Returns the place in the documentation that explains the code.
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

    /// No code is listed twice, and each is at the index of its number.
    #[test]
    fn the_table_is_in_the_order_of_the_wire() {
        for (at, row) in CODES.iter().enumerate() {
            assert_eq!(row.code as usize, at, "{row:?}");
        }
    }
}
