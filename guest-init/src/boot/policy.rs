//! GPU policy: which GPUs a guest must have, and what happens if it has different ones or none that works.

use super::error::BootError;
use crate::gpu::container_env::Visible;
use crate::gpu::pci::PciGpu;
use image::config::{Config, ExpectedGpus, GpuPolicy};
use image::manifest::{Driver, Manifest};

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

/// Compares the GPUs that the host promised with those on the bus.
///
/// # Errors
/// [`BootError::NoGpu`] or [`BootError::OtherGpus`] if they differ.
pub fn expected(promised: &ExpectedGpus, found: &[PciGpu]) -> Result<(), BootError> {
    let wanted = match promised {
        ExpectedGpus::Count(0) if found.is_empty() => return Ok(()),
        _ if found.is_empty() => {
            let promise =
                promised.text().map_or("HAS_GPU=1".into(), |text| format!("gpu_initrd.gpus={text}"));
            return Err(BootError::NoGpu { promise });
        }
        ExpectedGpus::Any => return Ok(()),
        ExpectedGpus::Count(count) if *count as usize == found.len() => return Ok(()),
        ExpectedGpus::Count(1) => "1 GPU".into(),
        ExpectedGpus::Count(count) => format!("{count} GPUs"),
        ExpectedGpus::Ids(ids) => {
            let mut asked = ids.clone();
            let mut have: Vec<_> = found.iter().map(|gpu| (gpu.vendor, gpu.device)).collect();
            asked.sort_unstable();
            have.sort_unstable();
            if asked == have {
                return Ok(());
            }
            promised.text().unwrap_or_default()
        }
    };
    Err(BootError::OtherGpus { promised: wanted, present: found.iter().map(PciGpu::to_string).collect() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::status::{Code, Finding};

    fn found(promised: &ExpectedGpus, found: &[PciGpu]) -> Option<Finding> {
        expected(promised, found).err().map(Finding::from)
    }

    #[test]
    fn a_missing_gpu_is_always_reported() {
        assert_eq!(found(&ExpectedGpus::Any, &[]).unwrap().code, Code::NoGpu);
        assert_eq!(found(&ExpectedGpus::Count(2), &[]).unwrap().code, Code::NoGpu);
        assert_eq!(found(&ExpectedGpus::Count(0), &[]), None);
        let unwanted = found(&ExpectedGpus::Count(0), &PciGpu::of_ids(&[0x2330])).unwrap();
        assert_eq!(unwanted.code, Code::GpuCountMismatch);
        assert!(unwanted.message.contains("promised 0 GPUs"), "{}", unwanted.message);
    }

    #[test]
    fn other_gpus_are_a_mismatch_in_any_order() {
        let two = PciGpu::of_ids(&[0x2330, 0x27b8]);
        assert_eq!(found(&ExpectedGpus::Any, &two), None);
        assert_eq!(found(&ExpectedGpus::Count(2), &two), None);
        let finding = found(&ExpectedGpus::Count(3), &two).unwrap();
        assert_eq!(finding.code, Code::GpuCountMismatch);
        assert!(finding.message.contains("promised 3 GPUs") && finding.message.contains("10de:27b8"));
        assert_eq!(found(&ExpectedGpus::Ids(vec![(0x10de, 0x27b8), (0x10de, 0x2330)]), &two), None);
        assert!(found(&ExpectedGpus::Ids(vec![(0x10de, 0x27b8)]), &two).is_some());
    }
}
