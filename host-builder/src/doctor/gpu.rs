//! Which GPUs exist, which driver they are bound to, and whether they can be reset.

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
        let gpus: Vec<_> = host.devices().into_iter().filter(Device::is_gpu).collect();
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
