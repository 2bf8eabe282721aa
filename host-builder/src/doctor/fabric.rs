//! NVSwitches: on boards with them, CUDA starts only after the fabric is up.

use super::device::Device;
use super::host::HostRoot;
use super::report::Check;

const NAME: &str = "fabric";

/// Whether there are NVSwitches, and what they require.
pub fn check(host: &HostRoot, gpus: &[Device]) -> Check {
    let switches: Vec<_> = host.devices().into_iter().filter(Device::is_switch).collect();
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

/// GPUs for boards whose NVSwitches are reached through ConnectX bridges (NVIDIA's Fabric Manager User Guide): GB100 (B200,
/// GB200), and everything from GB110 (B300) on, which is not tested.
fn hides_switches(product: u16) -> bool {
    matches!(product, 0x2900..=0x29ff | 0x3100..)
}
