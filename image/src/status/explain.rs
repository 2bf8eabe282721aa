//! What usually causes each finding, and which settings belong to it. host-builder prints it (`explain`); a guest does not need it.

use super::Code;

/// Causes and settings of one code.
#[derive(Debug, Clone, Copy)]
pub struct Background {
    /// The code.
    pub code: Code,
    /// Usual causes, the most frequent first.
    pub causes: &'static [&'static str],
    /// Keys of the kernel command line that belong to it.
    pub keys: &'static [&'static str],
    /// Metrics that show it, besides `gpu_initrd_findings`.
    pub metrics: &'static [&'static str],
}

impl Code {
    /// Returns the code with this name.
    pub fn named(name: &str) -> Option<Self> {
        super::finding::CODES.iter().map(|row| row.code).find(|code| code.name() == name)
    }

    /// Returns the usual causes and the settings of this code.
    pub fn background(self) -> &'static Background {
        &BACKGROUND[self as usize]
    }
}

/// One row per code: causes, keys, metrics.
macro_rules! background {
    ($($code:ident: [$($cause:literal),+ $(,)?], [$($key:literal),*], [$($metric:literal),*];)+) => {
        /// Every code, in the order of their numbers on the wire.
        pub const BACKGROUND: &[Background] = &[
            $(Background { code: Code::$code, causes: &[$($cause),+], keys: &[$($key),*], metrics: &[$($metric),*] },)+
        ];
    };
}

background! {
    NoGpu: ["the VMM was started without the GPU", "the GPU is not bound to vfio-pci on the host", "HAS_GPU=1 is set for a guest that needs no GPU"], ["HAS_GPU", "gpu_initrd.gpus", "gpu_initrd.gpu"], ["gpu_initrd_gpus"];
    GpuCountMismatch: ["one of the GPUs was not passed to the VMM", "the promise is that of another machine type"], ["gpu_initrd.gpus"], ["gpu_initrd_gpus"];
    GpuUnsupported: ["the GPU is newer than the driver", "the GPU is older than Turing, which NVIDIA's open modules require"], ["gpu_initrd.gpu"], ["gpu_initrd_gpus"];
    AdapterInitFailed: ["the GPU was not reset after its previous guest", "the adapter is slow and the deadline short", "the GPU's firmware or hardware is damaged"], ["gpu_initrd.gpu_timeout", "gpu_initrd.gpu"], ["gpu_initrd_gpus"];
    FirmwareMissing: ["the initrd was built with --gpu for another family of GPUs", "the profile has no firmware package", "the kernel has no firmware loader"], [], ["gpu_initrd_gpus"];
    ModuleMissing: ["the initrd was changed after it was built", "the initrd was cut short when it was copied"], [], [];
    ModuleRejected: ["the kernel enforces signatures (module.sig_enforce, lockdown)", "the modules are signed with a key that this kernel does not know"], [], [];
    KernelMismatch: ["the VMM boots a kernel of another build", "the kernel was upgraded without the initrd"], [], [];
    ModuleFailed: ["a parameter has a value that the module does not accept", "the kernel lacks a symbol that the module uses", "the guest has too little memory"], [], [];
    ModuleVersionMismatch: ["the initrd was put together from two driver versions", "another nvidia module is built into the kernel"], [], [];
    FabricNotReady: ["the machine has NVSwitches, and no fabric manager runs"], [], [];
    Wpr2AlreadyUp: ["the previous guest was killed, and the host did not reset the GPU", "the GPU supports no function-level reset"], [], ["gpu_initrd_gpus"];
    GpuXid: ["the program accesses GPU memory that it may not (13, 31, 43)", "the GPU's memory or its link has errors (48, 63, 64, 74, 79, 94, 95)"], [], ["gpu_initrd_xid_total"];
    GpuLost: ["the GPU fell off the bus: power, temperature, PCIe errors", "the host removed the GPU from the guest"], [], ["gpu_initrd_gpus"];
    UvmMissing: ["nvidia-uvm did not load: another finding says why", "the initrd was built without it"], [], [];
    NodeFailed: ["/dev is full or read-only", "another file is in place of the node"], [], [];
    NodeConflict: ["a driver of the guest's kernel uses the name", "a stale node of an earlier process"], [], [];
    RootUnusable: ["the root disk is not attached, or has another serial", "the disk has no file system that the guest knows", "the upper layer's disk is full or damaged"], ["gpu_initrd.root", "gpu_initrd.upper", "gpu_initrd.disk_timeout"], [];
    InjectFailed: ["the image's /usr/lib or /etc is a broken link", "an upper layer of an earlier boot has removed a directory", "the kernel is older than 6.5"], ["gpu_initrd.upper"], [];
    CacheFailed: ["a directory is in place of /etc/ld.so.cache", "the root is full or read-only"], [], [];
    LibraryShadowed: ["LD_LIBRARY_PATH names a directory with another driver", "the image has driver files, and driver_files=keep"], ["gpu_initrd.driver_files"], [];
    ConfigInvalid: ["a value is misspelled", "two settings contradict each other", "the user or the command does not exist in the image"], ["gpu_initrd.config"], [];
    ConfigUnknownKey: ["a key is misspelled", "config.json was written for another init"], ["gpu_initrd.config"], [];
    ManifestInvalid: ["guest-init and host-builder are of different releases", "the initrd was changed after it was built"], [], [];
    NoDriver: ["the initrd was built without a driver"], ["HAS_GPU", "gpu_initrd.gpu"], [];
    EntrypointNotFound: ["the command is misspelled, or not in PATH", "the image is not the one that was meant"], [], [];
    EntrypointNotExecutable: ["the file has no execute permission", "the program is for another machine", "its interpreter or loader is not in the image"], [], [];
    OomKilled: ["the program needs more memory than the guest has", "files in a tmpfs or in the upper layer use the memory"], ["gpu_initrd.upper"], ["gpu_initrd_container_oom_kills_total", "gpu_initrd_memory_bytes"];
    LowMemory: ["the initrd carries the driver in memory (--payload image or files)", "the guest's memory was chosen for an image without a driver"], [], ["gpu_initrd_memory_bytes"];
    ImageHasNoGlibc: ["the image is based on Alpine, busybox or nothing"], [], [];
    ImageIsNix: ["the image was built with Nix or Guix"], [], [];
    ImageBundlesDriver: ["the image was made on a machine with a driver, or installs driver packages"], ["gpu_initrd.driver_files"], [];
    CudaCompat: ["the image is based on NVIDIA's CUDA images, which contain these libraries"], [], [];
    CapabilityMissing: ["the initrd was built with the default capabilities, compute and utility"], [], [];
    CudaRequirementUnmet: ["the image is for a newer CUDA than the driver supports"], [], [];
    NoSpace: ["the root disk is as small as its content, and upper=none copies the driver into it"], ["gpu_initrd.upper"], [];
    PayloadDiskMissing: ["the driver's disk was not attached", "the disk of another build was attached"], ["gpu_initrd.disk_timeout"], [];
    PayloadAltered: ["the disk of another build is attached", "the disk is damaged, or someone has changed it"], [], [];
    PayloadUnusable: ["the kernel has no EROFS, no loop device or no device-mapper"], [], [];
    Internal: ["the guest has too little memory for guest-init", "a defect"], [], [];
    VolumeUnusable: ["the disk has no file system that the guest knows", "the volume's path is a file, or below /proc, /sys or /dev"], ["gpu_initrd.disk_timeout"], [];
    GpuNotBound: ["the GPU has fallen off the bus", "the guest's PCI windows are too small for its memory", "nouveau or a frame buffer has claimed it"], [], ["gpu_initrd_gpus"];
    LibcTooOld: ["the image is based on an old distribution, such as CentOS 7"], [], [];
    VolumeMissing: ["the disk was not attached, or has another serial"], ["gpu_initrd.disk_timeout"], [];
    DriverFileMissing: ["the distribution's package has a script in place of the program"], [], [];
    StepTimedOut: ["the backend of a disk or a share has stopped", "the machine is overloaded"], ["gpu_initrd.step_timeout", "gpu_initrd.disk_timeout", "gpu_initrd.gpu_timeout"], ["gpu_initrd_phase_seconds"];
    TaskHung: ["the backend of a disk or a share has stopped", "the GPU or its firmware does not respond", "the disk is much slower than the guest's writes"], [], [];
    CpuStuck: ["the host has too little processor time for the guest", "the guest was paused and resumed", "a defect in the driver or in the kernel"], [], [];
}

#[cfg(test)]
mod tests {
    use super::super::finding::CODES;
    use super::*;
    use crate::config::KEYS;

    #[test]
    fn every_code_has_its_row_and_known_keys() {
        assert_eq!(BACKGROUND.len(), CODES.len());
        for (row, known) in BACKGROUND.iter().zip(CODES) {
            assert_eq!((row.code, row.code.background().code), (known.code, known.code));
            assert_eq!(Code::named(&row.code.name()), Some(row.code));
            for key in row.keys {
                assert!(KEYS.iter().any(|known| known.name == *key), "{key}");
            }
        }
        assert_eq!(Code::named("no-such-code"), None);
    }
}
