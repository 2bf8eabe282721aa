//! A GPU's IOMMU group. VFIO passes the whole group to a guest.

use super::device::{Device, is_vfio};
use super::host::HostRoot;
use super::report::Check;

const NAME: &str = "gpu-group";
/// Drivers that the kernel allows in a group together with VFIO (`driver_managed_dma`): they do no DMA.
const HARMLESS: [&str; 2] = ["pci-stub", "pcieport"];

/// Whether another device of the group is bound to a driver of the host.
pub fn check(host: &HostRoot, gpu: &Device) -> Check {
    let Some(group) = &gpu.group else {
        return Check::fail(NAME, "the GPU is in no IOMMU group", "enable the IOMMU: see the check iommu")
            .of(&gpu.bdf);
    };
    let place = format!("/sys/kernel/iommu_groups/{group}/devices");
    let names = host.names(&place);
    let (mut members, mut unknown) = (Vec::new(), Vec::new());
    for bdf in names.iter().filter(|bdf| **bdf != gpu.bdf) {
        match Device::read(host, bdf) {
            Some(device) => members.push(device),
            None => unknown.push(bdf.as_str()),
        }
    }
    let name = |device: &Device| {
        let driver = device.driver.as_deref().unwrap_or("no driver");
        format!("{} {} class {:04x}: {driver}", device.bdf, device.id(), device.class)
    };
    let is_harmless = |driver: &str| is_vfio(driver) || HARMLESS.contains(&driver);
    let in_the_way: Vec<_> = members
        .iter()
        .filter(|device| device.driver.as_deref().is_some_and(|driver| !is_harmless(driver)))
        .collect();
    let evidence: Vec<_> = members.iter().map(name).collect();
    let remedy = "reboot the host; if that does not help, check that /sys can be read";
    if !names.contains(&gpu.bdf) {
        return Check::warn(NAME, format!("unknown: {place} does not list the GPU"), remedy).of(&gpu.bdf);
    }
    if in_the_way.is_empty() && !unknown.is_empty() {
        let found = format!("group {group}: unknown devices: {}", unknown.join(" "));
        return Check::warn(NAME, found, remedy).of(&gpu.bdf).evidence(evidence);
    }
    if in_the_way.is_empty() {
        let others = match members.iter().filter(|device| !device.is_bridge()).count() {
            0 => "the GPU is the only device".to_owned(),
            count => format!("{count} other functions are passed with the GPU"),
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
            "bind the GPU's other functions as well; as root, for each of {list}: driverctl --nosave set-override BDF vfio-pci"
        )
    } else {
        format!(
            "{foreign} of them belong to other slots: bind them to vfio-pci as well, or move the GPU to a slot with its own group (ACS on the switch above it)"
        )
    };
    Check::fail(NAME, format!("group {group}: bound to drivers of the host: {list}"), remedy)
        .of(&gpu.bdf)
        .evidence(evidence)
}
