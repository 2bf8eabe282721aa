//! A GPU that something of the host still uses.

use super::device::Device;
use super::host::Host;
use super::report::Check;

const NAME: &str = "gpu-held";

/// Whether a driver of the host has the GPU, or a console of it.
pub fn check(host: &Host, gpu: &Device) -> Check {
    let driver = gpu.driver.as_deref();
    let check = match driver {
        Some("nvidia") => {
            let users = host
                .hint("/sys/module/nvidia/refcnt")
                .map(|count| format!("/sys/module/nvidia/refcnt: {count}"));
            let version = host
                .hint("/sys/module/nvidia/version")
                .map(|version| format!("/sys/module/nvidia/version: {version}"));
            Check::fail(
                NAME,
                "the host's nvidia driver has it",
                format!("end what uses it (fuser -v /dev/nvidia*; systemctl stop nvidia-persistenced nvidia-dcgm), then as root: driverctl --nosave set-override {} vfio-pci", gpu.bdf),
            )
            .evidence(users.into_iter().chain(version))
        }
        Some("nouveau" | "nova_core" | "nvidiafb") => Check::fail(
            NAME,
            format!("the host's {} driver has it, and may show a console on it", driver.unwrap_or_default()),
            "keep that driver away from it: modprobe.blacklist=nouveau on the kernel command line, and boot again",
        ),
        _ if host.hint(&gpu.file("boot_vga")).as_deref() == Some("1") => Check::warn(
            NAME,
            "it is the host's boot display (boot_vga): a console may be drawn into its memory",
            "make another display, or none, the first in the firmware's settings; or add video=efifb:off to the kernel command line",
        ),
        _ => Check::pass(NAME, "nothing of the host uses it"),
    };
    check.of(&gpu.bdf)
}
