//! What ends a boot: which GPUs a guest is to have, and what happens when it has others, or none that works.

use crate::gpu::container_env::Visible;
use crate::gpu::pci::PciGpu;
use crate::status::{self, with_evidence};
use image::config::{Config, ExpectedGpus, GpuPolicy};
use image::manifest::{Driver, Manifest};
use image::status::{Code, Finding};

/// What the host and the container want of the GPUs.
pub struct Wants<'a> {
    /// The driver to load, where GPUs are wanted and there is one.
    pub driver: Option<&'a Driver>,
    /// Which GPUs the container has.
    pub visible: Visible,
    /// Whether the boot ends where they are not all usable.
    pub required: bool,
    /// Whether GPUs are wanted and the initrd carries no driver.
    pub lacks_driver: bool,
}

impl<'a> Wants<'a> {
    /// By configuration and plan.
    pub fn of(config: &Config, manifest: &'a Manifest) -> Self {
        let policy = config.gpu_policy.unwrap_or(GpuPolicy::Required);
        let visible = Visible::asked(&config.env);
        let promised = config.has_gpu || config.gpus.promises();
        let asked = promised && policy != GpuPolicy::Off && visible != Visible::Void;
        let driver = manifest.driver.as_ref().filter(|_| asked);
        let required = driver.is_some() && policy == GpuPolicy::Required;
        Self { driver, visible, required, lacks_driver: asked && manifest.driver.is_none() }
    }
}

/// The finding of `HAS_GPU=1` with an initrd that carries no driver: an error only where the policy was asked for by name.
pub fn no_driver(config: &Config) -> Result<Finding, Finding> {
    let hint = "build an initrd with a driver, or boot without HAS_GPU=1";
    let message = "HAS_GPU=1, and the initrd carries no driver";
    if config.gpu_policy == Some(GpuPolicy::Required) {
        return Err(status::error(Code::NoDriver, message, hint));
    }
    Ok(status::warning(Code::NoDriver, message, hint))
}

/// The GPUs that the host promised against those on the bus: the finding where they differ.
pub fn expected(promised: &ExpectedGpus, found: &[PciGpu]) -> Option<Finding> {
    let list = found.iter().map(|gpu| format!("{} {:04x}:{:04x}", gpu.bdf, gpu.vendor, gpu.device));
    let list: Vec<String> = list.collect();
    let wanted = match promised {
        ExpectedGpus::Count(0) if found.is_empty() => return None,
        _ if found.is_empty() => {
            let promise =
                promised.text().map_or("HAS_GPU=1".into(), |text| format!("gpu_initrd.gpus={text}"));
            return Some(status::error(
                Code::NoGpu,
                format!("{promise} promises a GPU, and no NVIDIA GPU is on the PCI bus"),
                "pass the GPU through: bind it to vfio-pci on the host and give it to the VMM (host-builder boot --vfio BDF)",
            ));
        }
        ExpectedGpus::Any => return None,
        ExpectedGpus::Count(count) if *count as usize == found.len() => return None,
        ExpectedGpus::Count(1) => "1 GPU".into(),
        ExpectedGpus::Count(count) => format!("{count} GPUs"),
        ExpectedGpus::Ids(ids) => {
            let mut asked = ids.clone();
            let mut have: Vec<_> = found.iter().map(|gpu| (gpu.vendor, gpu.device)).collect();
            asked.sort_unstable();
            have.sort_unstable();
            if asked == have {
                return None;
            }
            promised.text().unwrap_or_default()
        }
    };
    let message = format!("the host promised {wanted}, the PCI bus has {}: {}", found.len(), list.join(", "));
    let hint = "compare gpu_initrd.gpus with the devices the VMM was given";
    Some(with_evidence(status::error(Code::GpuCountMismatch, message, hint), list))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(devices: &[u16]) -> Vec<PciGpu> {
        let gpu = |(n, device): (usize, &u16)| PciGpu {
            bdf: format!("0000:0{n}:00.0"),
            vendor: 0x10de,
            device: *device,
        };
        devices.iter().enumerate().map(gpu).collect()
    }

    #[test]
    fn none_is_never_silence() {
        assert_eq!(expected(&ExpectedGpus::Any, &[]).unwrap().code, Code::NoGpu);
        assert_eq!(expected(&ExpectedGpus::Count(2), &[]).unwrap().code, Code::NoGpu);
        assert_eq!(expected(&ExpectedGpus::Count(0), &[]), None);
        let unwanted = expected(&ExpectedGpus::Count(0), &found(&[0x2330])).unwrap();
        assert_eq!(unwanted.code, Code::GpuCountMismatch);
        assert!(unwanted.message.contains("promised 0 GPUs"), "{}", unwanted.message);
    }

    #[test]
    fn fewer_more_or_others_is_a_mismatch_and_order_does_not_matter() {
        let two = found(&[0x2330, 0x27b8]);
        assert_eq!(expected(&ExpectedGpus::Any, &two), None);
        assert_eq!(expected(&ExpectedGpus::Count(2), &two), None);
        let finding = expected(&ExpectedGpus::Count(3), &two).unwrap();
        assert_eq!(finding.code, Code::GpuCountMismatch);
        assert!(finding.message.contains("promised 3 GPUs") && finding.message.contains("10de:27b8"));
        assert_eq!(expected(&ExpectedGpus::Ids(vec![(0x10de, 0x27b8), (0x10de, 0x2330)]), &two), None);
        assert!(expected(&ExpectedGpus::Ids(vec![(0x10de, 0x27b8)]), &two).is_some());
    }
}
