//! A GPU that something of the host still uses.

use super::device::{Device, is_vfio};
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
        Some(driver) if !is_idle(driver) => match display_module(driver) {
            Some(module) => Check::fail(
                NAME,
                format!("the host's {driver} driver has it, and may show a console on it"),
                format!(
                    "keep that driver away from it: modprobe.blacklist={module} on the kernel command line, and boot again"
                ),
            ),
            None => Check::fail(
                NAME,
                format!("the host's {driver} driver has it"),
                format!(
                    "end what uses it, then as root: driverctl --nosave set-override {} vfio-pci",
                    gpu.bdf
                ),
            ),
        },
        _ if host.hint(&gpu.file("boot_vga")).as_deref() == Some("1") => Check::warn(
            NAME,
            "it is the host's boot display (boot_vga): a console may be drawn into its memory",
            "make another display, or none, the first in the firmware's settings; or add video=efifb:off to the kernel command line",
        ),
        _ => Check::pass(NAME, "nothing of the host uses it"),
    };
    check.of(&gpu.bdf)
}

/// Drivers that keep a device free for others and do nothing with it.
fn is_idle(driver: &str) -> bool {
    is_vfio(driver) || driver == "pci-stub"
}

/// The module of a display driver of the kernel's own. The name of Nova's changes from release to release.
fn display_module(driver: &str) -> Option<&'static str> {
    match driver {
        "nouveau" => Some("nouveau"),
        "nova-core" | "nova_core" | "NovaCore" => Some("nova_core"),
        "nvidiafb" => Some("nvidiafb"),
        _ => None,
    }
}
