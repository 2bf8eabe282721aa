//! Whether the host still uses a GPU.

use super::device::{Device, is_vfio};
use super::host::HostRoot;
use super::report::Check;

const NAME: &str = "gpu-held";

/// Whether a driver or a console of the host uses the GPU.
pub fn check(host: &HostRoot, gpu: &Device) -> Check {
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
                "the host's nvidia driver uses it",
                format!("stop the programs that use it (fuser -v /dev/nvidia*; systemctl stop nvidia-persistenced nvidia-dcgm); then, as root: driverctl --nosave set-override {} vfio-pci", gpu.bdf),
            )
            .evidence(users.into_iter().chain(version))
        }
        Some(driver) if !is_idle(driver) => match display_module(driver) {
            Some(module) => Check::fail(
                NAME,
                format!("the host's {driver} driver uses it, and may show a console on it"),
                format!(
                    "blacklist that driver: add modprobe.blacklist={module} to the kernel command line, and reboot"
                ),
            ),
            None => Check::fail(
                NAME,
                format!("the host's {driver} driver uses it"),
                format!(
                    "stop the programs that use it; then, as root: driverctl --nosave set-override {} vfio-pci",
                    gpu.bdf
                ),
            ),
        },
        _ if host.hint(&gpu.file("boot_vga")).as_deref() == Some("1") => Check::warn(
            NAME,
            "it is the host's boot display (boot_vga): a console may write to its memory",
            "select another primary display, or none, in the firmware settings; or add video=efifb:off to the kernel command line",
        ),
        _ => Check::pass(NAME, "the host does not use it"),
    };
    check.of(&gpu.bdf)
}

/// Drivers that only reserve a device and do nothing with it.
fn is_idle(driver: &str) -> bool {
    is_vfio(driver) || driver == "pci-stub"
}

/// The module of a display driver of the kernel. The name of Nova's driver changes between releases.
fn display_module(driver: &str) -> Option<&'static str> {
    match driver {
        "nouveau" => Some("nouveau"),
        "nova-core" | "nova_core" | "NovaCore" => Some("nova_core"),
        "nvidiafb" => Some("nvidiafb"),
        _ => None,
    }
}
