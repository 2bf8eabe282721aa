//! Which GPUs exist, which driver they are bound to, whether the host still uses them, whether they
//! can be reset, and whether they need a fabric: on boards with NVSwitches, CUDA starts only after
//! the fabric is up.

use super::device::{Device, is_vfio};
use super::host::HostRoot;
use super::report::Check;
use crate::common::error::Result;
use crate::vm::vfio::full_address;

const LIST: &str = "list NVIDIA's devices: lspci -D -d 10de:";

/// The GPUs to check, and what is wrong with the choice. Fails if an address is malformed.
pub fn chosen(host: &HostRoot, asked: &[String]) -> Result<(Vec<Device>, Vec<Check>)> {
    const NAME: &str = "gpu";
    let name = |gpu: &Device| format!("{} {} class {:04x}", gpu.bdf, gpu.id(), gpu.class);
    if asked.is_empty() {
        let gpus: Vec<_> = Device::all(host).into_iter().filter(Device::is_gpu).collect();
        let check = if gpus.is_empty() {
            Check::fail(
                NAME,
                format!(
                    "no NVIDIA GPU among the {} PCI devices of this machine",
                    host.names(image::pci::DEVICES).len()
                ),
                "run doctor on the machine with the GPUs; there, check that lspci -d 10de: lists them; if it does not, check slot, power and firmware settings",
            )
        } else {
            Check::pass(NAME, format!("NVIDIA GPUs: {}", gpus.len())).evidence(gpus.iter().map(name))
        };
        return Ok((gpus, vec![check]));
    }
    let mut gpus: Vec<Device> = Vec::new();
    let mut checks = Vec::new();
    for address in asked {
        let bdf = full_address("--gpu", address)?;
        if gpus.iter().any(|gpu| gpu.bdf == bdf) {
            continue;
        }
        match Device::read(host, &bdf) {
            Some(device) if device.is_gpu() => {
                checks.push(Check::pass(NAME, name(&device)).of(&bdf));
                gpus.push(device);
            }
            Some(device) => {
                let found = format!("{} is not an NVIDIA GPU", name(&device));
                checks.push(Check::fail(NAME, found, LIST).of(&bdf));
            }
            None => checks.push(Check::fail(NAME, "there is no such PCI device", LIST).of(&bdf)),
        }
    }
    Ok((gpus, checks))
}

/// Whether the GPU is bound to vfio-pci.
pub fn driver(host: &HostRoot, gpu: &Device) -> Check {
    const NAME: &str = "gpu-driver";
    let place = gpu.file("driver");
    let check = match gpu.driver.as_deref() {
        Some(driver) if is_vfio(driver) => Check::pass(NAME, format!("bound to {driver}")),
        found => {
            let found = found.map_or("bound to no driver".to_owned(), |driver| format!("bound to {driver}"));
            let remedy = format!(
                "stop everything on this machine that uses it; then, as root: driverctl --nosave set-override {} vfio-pci",
                gpu.bdf
            );
            Check::fail(NAME, format!("{found}, expected vfio-pci"), remedy)
        }
    };
    let set = host.hint(&gpu.file("driver_override")).filter(|name| !name.is_empty() && name != "(null)");
    let set = set.map(|name| format!("driver_override: {name}"));
    let link = gpu.driver.as_deref().map(|driver| format!("{place}: {driver}"));
    check.of(&gpu.bdf).evidence(link.into_iter().chain(set))
}

/// Whether the kernel has a method to reset it (`reset_method`, since Linux 5.15).
pub fn reset(host: &HostRoot, gpu: &Device) -> Check {
    const NAME: &str = "gpu-reset";
    let remedy = "update the GPU's firmware; without a reset, a guest that crashes may leave the GPU unusable until the host reboots";
    let check = match host.text(&gpu.file("reset_method")) {
        Ok(Some(methods)) if !methods.is_empty() => Check::pass(NAME, format!("by {methods}")),
        Ok(Some(_)) => Check::warn(NAME, "the kernel has no method to reset it", remedy),
        Ok(None) if host.has(&gpu.file("reset")) => Check::pass(NAME, "it can be reset"),
        Ok(None) => Check::warn(NAME, "the kernel has no method to reset it (no reset_method)", remedy),
        Err(error) => Check::warn(NAME, format!("unknown: {}", error.chain()), remedy),
    };
    check.of(&gpu.bdf)
}

/// Whether a driver or a console of the host uses the GPU.
pub fn held(host: &HostRoot, gpu: &Device) -> Check {
    const NAME: &str = "gpu-held";
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

/// The module of a display driver of the kernel. The name of Nova's driver changes between
/// releases.
fn display_module(driver: &str) -> Option<&'static str> {
    match driver {
        "nouveau" => Some("nouveau"),
        "nova-core" | "nova_core" | "NovaCore" => Some("nova_core"),
        "nvidiafb" => Some("nvidiafb"),
        _ => None,
    }
}

/// Whether there are NVSwitches, and what they require.
pub fn fabric(host: &HostRoot, gpus: &[Device]) -> Check {
    const NAME: &str = "fabric";
    let switches: Vec<_> = Device::all(host).into_iter().filter(Device::is_switch).collect();
    let unseen: Vec<_> = gpus.iter().filter(|gpu| hides_switches(gpu.product)).collect();
    if switches.is_empty() && !unseen.is_empty() {
        return Check::warn(
            NAME,
            "no NVSwitch on the PCI bus; for these GPUs this is not conclusive: since B200, NVSwitches are not PCI devices",
            "on an HGX or NVL board, run nvidia-fabricmanager and nvlsm of the driver's version on the machine with the switches' ConnectX bridges; for a single GPU, disable NVLink instead: nvidia.NVreg_NvLinkDisable=1 on the guest's command line",
        )
        .evidence(unseen.iter().map(|gpu| format!("{} {}", gpu.bdf, gpu.id())));
    }
    if switches.is_empty() {
        return Check::pass(NAME, "no NVSwitch on the PCI bus: fabric manager is not needed");
    }
    let name = |switch: &Device| {
        format!("{} {}: {}", switch.bdf, switch.id(), switch.driver.as_deref().unwrap_or("no driver"))
    };
    Check::warn(
        NAME,
        format!("NVSwitches: {}, GPUs: {}: CUDA starts in a guest only if the fabric is up or NVLink is disabled", switches.len(), gpus.len()),
        "for a single GPU: add nvidia.NVreg_NvLinkDisable=1 to the guest's command line; for all GPUs: pass the NVSwitches through as well and run nvidia-fabricmanager in the guest; for some GPUs: use fabric manager's shared mode on the host",
    )
    .evidence(switches.iter().map(name))
}

/// GPUs for boards whose NVSwitches are reached through ConnectX bridges (NVIDIA's Fabric Manager
/// User Guide): GB100 (B200, GB200), and everything from GB110 (B300) on, which is not tested.
fn hides_switches(product: u16) -> bool {
    matches!(product, 0x2900..=0x29ff | 0x3100..)
}
