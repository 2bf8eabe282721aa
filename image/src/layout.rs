//! Paths shared by host-builder, which packs them, and guest-init, which reads them.
//!
//! Paths in the initramfs are absolute. No other file of the project repeats them.

/// PID 1. The kernel runs this path of an initramfs first.
pub const INIT: &str = "/init";
/// The manifest that host-builder writes and guest-init executes ([`crate::manifest::Manifest`], JSON).
pub const MANIFEST: &str = "/usr/share/gpu-initrd/manifest.json";
/// Driver libraries, each under the name its package gave it (`libcuda.so.550.163.01`); those that live in a
/// subdirectory of a container's library directory (`vdpau`, `gbm`) in the same one here.
pub const DRIVER_LIB_DIR: &str = "/usr/lib/nvidia";
/// 32-bit driver libraries, for programs of that kind beside 64-bit ones.
pub const DRIVER_LIB32_DIR: &str = "/usr/lib32/nvidia";
/// Driver files that are neither library nor program (ICD and JSON files), each below it at the path that it has in a
/// container.
pub const DRIVER_DATA_DIR: &str = "/usr/share/gpu-initrd/data";
/// Driver programs (`nvidia-smi`, `nvidia-modprobe`).
pub const DRIVER_BIN_DIR: &str = "/usr/bin";
/// Where the kernel looks for firmware, in PID 1's root.
pub const FIRMWARE_DIR: &str = "/lib/firmware";
/// Parent of the per-release module directory.
pub const MODULES_DIR: &str = "/lib/modules";
/// Directory of the GPU modules below the module directory of a kernel release.
pub const GPU_MODULES_SUBDIR: &str = "kernel/drivers/gpu";

/// State of guest-init while it runs, on a tmpfs.
pub const RUN_DIR: &str = "/run/gpu-initrd";
/// The container image (read-only lower layer).
pub const ROOT_LOWER: &str = "/run/gpu-initrd/lower";
/// Holds `upper` and `work` of the container's overlay.
pub const ROOT_SCRATCH: &str = "/run/gpu-initrd/scratch";
/// The container's root as the container sees it.
pub const ROOT_MERGED: &str = "/run/gpu-initrd/root";
/// The config disk, while it is read.
pub const CONFIG_MOUNT: &str = "/run/gpu-initrd/config";
/// Serial number of the disk with the container's root.
pub const ROOT_SERIAL: &str = "root";
/// Serial number of the disk for the container's writes.
pub const UPPER_SERIAL: &str = "upper";
/// Serial number of the config disk.
pub const CONFIG_SERIAL: &str = "config";
/// Default device of the container's root, where no disk has a serial number; hypeman attaches its disks in this order.
pub const DEFAULT_ROOT: &str = "/dev/vda";
/// Default device of the upper layer, see [`DEFAULT_ROOT`].
pub const DEFAULT_UPPER: &str = "/dev/vdb";
/// Default device of the config disk, see [`DEFAULT_ROOT`].
pub const DEFAULT_CONFIG: &str = "/dev/vdc";
/// File on the config disk.
pub const CONFIG_FILE: &str = "config.json";
/// The payload as an EROFS image in the initramfs.
pub const PAYLOAD_IMAGE: &str = "/usr/share/gpu-initrd/driver.erofs";
/// Where a payload that is an EROFS image is mounted.
pub const PAYLOAD_MOUNT: &str = "/run/gpu-initrd/payload";
/// With a mounted payload: metadata-only files in the container's layout, which refer to files of the payload.
pub const DRIVER_NAMES: &str = "/run/gpu-initrd/driver-names";
/// [`DRIVER_NAMES`] with the content of the payload's files: a lower layer for the container's overlay.
pub const DRIVER_FILES: &str = "/run/gpu-initrd/driver-files";
/// With a mounted payload: whiteouts for the image's own driver files, a lower layer above [`DRIVER_FILES`].
pub const DRIVER_MASKS: &str = "/run/gpu-initrd/driver-masks";
/// The driver's plain files in the form of a lower layer for the container's overlay. Not below [`RUN_DIR`]: hard links to
/// [`DRIVER_LIB_DIR`] need the same file system.
pub const DRIVER_LAYER: &str = "/var/lib/gpu-initrd/layer";

/// `/lib/modules/<release>`.
pub fn module_dir(release: &str) -> String {
    format!("{MODULES_DIR}/{release}")
}

/// `/lib/modules/<release>/kernel/drivers/gpu/<file>`.
pub fn gpu_module(release: &str, file: &str) -> String {
    format!("{MODULES_DIR}/{release}/{GPU_MODULES_SUBDIR}/{file}")
}

/// `/lib/firmware/nvidia/<driver version>`.
pub fn firmware_dir(driver: &str) -> String {
    format!("{FIRMWARE_DIR}/nvidia/{driver}")
}
