//! A GPU's IOMMU group: VFIO gives it to a guest whole.

use super::device::Device;
use super::host::Host;
use super::report::Check;

const NAME: &str = "gpu-group";
/// Drivers that VFIO accepts beside its own: they do not use the device for themselves.
const HARMLESS: [&str; 4] = ["vfio-pci", "nvgrace_gpu_vfio_pci", "pci-stub", "pcieport"];

/// Whether anything else of the group is bound to a driver of the host.
pub fn check(host: &Host, gpu: &Device) -> Check {
    let Some(group) = &gpu.group else {
        return Check::fail(NAME, "the GPU is in no IOMMU group", "turn the IOMMU on: see the check iommu")
            .of(&gpu.bdf);
    };
    let place = format!("/sys/kernel/iommu_groups/{group}/devices");
    let members: Vec<Device> = host
        .names(&place)
        .iter()
        .filter(|bdf| **bdf != gpu.bdf)
        .filter_map(|bdf| Device::read(host, bdf))
        .collect();
    let name = |device: &Device| {
        let driver = device.driver.as_deref().unwrap_or("no driver");
        format!("{} {} class {:04x}: {driver}", device.bdf, device.id(), device.class)
    };
    let is_harmless = |driver: &str| HARMLESS.contains(&driver);
    let in_the_way: Vec<_> = members
        .iter()
        .filter(|device| !device.is_bridge())
        .filter(|device| device.driver.as_deref().is_some_and(|driver| !is_harmless(driver)))
        .collect();
    let evidence: Vec<_> = members.iter().map(name).collect();
    if in_the_way.is_empty() {
        let others = match members.iter().filter(|device| !device.is_bridge()).count() {
            0 => "the GPU is alone in it".to_owned(),
            count => format!("{count} other functions go with the GPU"),
        };
        return Check::pass(NAME, format!("group {group}: {others}")).of(&gpu.bdf).evidence(evidence);
    }
    let list = in_the_way.iter().map(|device| device.bdf.as_str()).collect::<Vec<_>>().join(" ");
    let own = |device: &&&Device| {
        device.bdf.rsplit_once('.').map(|(slot, _)| slot) == gpu.bdf.rsplit_once('.').map(|(slot, _)| slot)
    };
    let foreign = in_the_way.iter().filter(|device| !own(device)).count();
    let remedy = if foreign == 0 {
        format!(
            "bind the GPU's other functions too; as root, for each of {list}: driverctl --nosave set-override BDF vfio-pci"
        )
    } else {
        format!(
            "{foreign} of them belong to other slots: bind them to vfio-pci as well, or put the GPU into a slot with a group of its own (ACS on the switch above it)"
        )
    };
    Check::fail(NAME, format!("group {group}: bound to drivers of the host: {list}"), remedy)
        .of(&gpu.bdf)
        .evidence(evidence)
}
