//! NVSwitches: GPUs on a board with them wait for the fabric before CUDA starts.

use super::device::Device;
use super::host::Host;
use super::report::Check;

const NAME: &str = "fabric";

/// Whether there are NVSwitches, and what follows.
pub fn check(host: &Host, gpus: &[Device]) -> Check {
    let switches: Vec<_> = host.devices().into_iter().filter(Device::is_switch).collect();
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
