//! GPU policy: which GPUs a guest must have, and what happens if it has different ones or none that works.

use crate::gpu::container_env::Visible;
use crate::gpu::pci::PciGpu;
use crate::status::{self, with_evidence};
use image::config::{Config, ExpectedGpus, GpuPolicy};
use image::manifest::{Driver, Manifest};
use image::status::{Code, Finding};

/// What the host and the container require of the GPUs.
pub struct Wants<'a> {
    /// The driver to load, if GPUs are requested and the initrd contains one.
    pub driver: Option<&'a Driver>,
    /// The GPUs that the container receives.
    pub visible: Visible,
    /// Whether the boot fails if one of them is unusable.
    pub required: bool,
    /// Whether GPUs are requested but the initrd contains no driver.
    pub lacks_driver: bool,
}

impl<'a> Wants<'a> {
    /// Derives the requirements from the configuration and the manifest.
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

/// Returns the finding for `HAS_GPU=1` with an initrd without a driver. It is an error only if `gpu=required` was set.
pub fn no_driver(config: &Config) -> Result<Finding, Finding> {
    let hint = "build an initrd with a driver, or omit HAS_GPU=1";
    let message = "HAS_GPU=1 is set, but the initrd contains no driver";
    if config.gpu_policy == Some(GpuPolicy::Required) {
        return Err(status::error(Code::NoDriver, message, hint));
    }
    Ok(status::warning(Code::NoDriver, message, hint))
}

/// Compares the GPUs that the host promised with those on the bus. Returns a finding if they differ.
pub fn expected(promised: &ExpectedGpus, found: &[PciGpu]) -> Option<Finding> {
    let list: Vec<String> = found.iter().map(PciGpu::to_string).collect();
    let wanted = match promised {
        ExpectedGpus::Count(0) if found.is_empty() => return None,
        _ if found.is_empty() => {
            let promise =
                promised.text().map_or("HAS_GPU=1".into(), |text| format!("gpu_initrd.gpus={text}"));
            return Some(status::error(
                Code::NoGpu,
                format!("{promise} promises a GPU, but there is no NVIDIA GPU on the PCI bus"),
                "bind the GPU to vfio-pci on the host and pass it to the VMM (host-builder boot --vfio BDF)",
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
    let message =
        format!("the host promised {wanted}, but the PCI bus has {}: {}", found.len(), list.join(", "));
    let hint = "compare gpu_initrd.gpus with the devices passed to the VMM";
    Some(with_evidence(status::error(Code::GpuCountMismatch, message, hint), list))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn none_is_never_silence() {
        assert_eq!(expected(&ExpectedGpus::Any, &[]).unwrap().code, Code::NoGpu);
        assert_eq!(expected(&ExpectedGpus::Count(2), &[]).unwrap().code, Code::NoGpu);
        assert_eq!(expected(&ExpectedGpus::Count(0), &[]), None);
        let unwanted = expected(&ExpectedGpus::Count(0), &PciGpu::of_ids(&[0x2330])).unwrap();
        assert_eq!(unwanted.code, Code::GpuCountMismatch);
        assert!(unwanted.message.contains("promised 0 GPUs"), "{}", unwanted.message);
    }

    #[test]
    fn fewer_more_or_others_is_a_mismatch_and_order_does_not_matter() {
        let two = PciGpu::of_ids(&[0x2330, 0x27b8]);
        assert_eq!(expected(&ExpectedGpus::Any, &two), None);
        assert_eq!(expected(&ExpectedGpus::Count(2), &two), None);
        let finding = expected(&ExpectedGpus::Count(3), &two).unwrap();
        assert_eq!(finding.code, Code::GpuCountMismatch);
        assert!(finding.message.contains("promised 3 GPUs") && finding.message.contains("10de:27b8"));
        assert_eq!(expected(&ExpectedGpus::Ids(vec![(0x10de, 0x27b8), (0x10de, 0x2330)]), &two), None);
        assert!(expected(&ExpectedGpus::Ids(vec![(0x10de, 0x27b8)]), &two).is_some());
    }
}
