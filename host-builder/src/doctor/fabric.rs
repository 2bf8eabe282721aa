//! NVSwitches: GPUs on a board with them wait for the fabric before CUDA starts.

use super::device::Device;
use super::host::Host;
use super::report::Check;

const NAME: &str = "fabric";

/// Whether there are NVSwitches, and what follows.
pub fn check(host: &Host, gpus: &[Device]) -> Check {
    let switches: Vec<_> = host.devices().into_iter().filter(Device::is_switch).collect();
    let unseen: Vec<_> = gpus.iter().filter(|gpu| hides_switches(gpu.product)).collect();
    if switches.is_empty() && !unseen.is_empty() {
        return Check::warn(
            NAME,
            "no NVSwitch on the PCI bus, which says nothing of these GPUs: from B200 on, NVSwitches are not on it",
            "on an HGX or NVL board run nvidia-fabricmanager and nvlsm of the driver's version where the switches' ConnectX bridges are; a single GPU can do without: nvidia.NVreg_NvLinkDisable=1 on the guest's command line",
        )
        .evidence(unseen.iter().map(|gpu| format!("{} {}", gpu.bdf, gpu.id())));
    }
    if switches.is_empty() {
        return Check::pass(NAME, "no NVSwitch on the PCI bus: no fabric manager is needed");
    }
    let name = |switch: &Device| {
        format!("{} {}: {}", switch.bdf, switch.id(), switch.driver.as_deref().unwrap_or("no driver"))
    };
    Check::warn(
        NAME,
        format!("NVSwitches: {}, GPUs: {}: CUDA starts in a guest only when their fabric is up, or when it is told to do without", switches.len(), gpus.len()),
        "a single GPU: nvidia.NVreg_NvLinkDisable=1 on the guest's command line; all GPUs: pass the NVSwitches through, too, and run nvidia-fabricmanager in the guest; some: fabric manager's shared mode on the host",
    )
    .evidence(switches.iter().map(name))
}

/// GPUs for boards whose NVSwitches are reached through ConnectX bridges (NVIDIA's Fabric Manager User Guide): GB100 (B200,
/// GB200), and everything from GB110 (B300) on, which nobody here knows.
fn hides_switches(product: u16) -> bool {
    matches!(product, 0x2900..=0x29ff | 0x3100..)
}
