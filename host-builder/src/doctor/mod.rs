//! `doctor`: troubleshooting before the boot. Checks a host or a container root, and reports pass,
//! warn or fail with a remedy. Changes nothing on the host or in the root.

mod bars;
mod container;
mod cuda;
mod device;
mod disk;
mod erofs;
pub(crate) mod file_systems;
mod gpu;
mod guest;
mod host;
mod memory;
mod packed;
mod report;
mod support;
mod vfio;
mod view;
mod virtualization;

pub use crate::programs::sandbox::Tools;
pub use container::{Container, check as check_container};
pub use disk::{ImageFileSystem, unpack};
pub use erofs::lacking;
pub use host::HostRoot;
pub use packed::{Origin, Packed};
pub use report::{CHECKS, Check, DoctorReport, SCHEMA, Verdict};
pub use view::screen;
pub use virtualization::TestGuest;

use crate::common::error::Result;

/// Options for the checks of a host.
#[derive(Debug, Default)]
pub struct Asked<'a> {
    /// PCI addresses of the GPUs, such as `0000:01:00.0`; empty: all NVIDIA GPUs.
    pub gpus: &'a [String],
    /// Planned memory of the guest in MiB.
    pub guest_memory: Option<u64>,
    /// The driver of an image. Its list of GPUs is used if it could be read.
    pub packed: Option<&'a Packed>,
    /// Result of a test guest on KVM; `None`: none was started.
    pub test_guest: Option<&'a TestGuest>,
}

/// Runs all checks of a host.
pub fn check_host(host: &HostRoot, asked: &Asked) -> Result<Vec<Check>> {
    let (gpus, mut checks) = gpu::chosen(host, asked.gpus)?;
    let packed = asked.packed.filter(|packed| packed.unread.is_none());
    checks.push(virtualization::kvm(host, asked.test_guest));
    checks.extend(vfio::iommu(host));
    checks.push(vfio::modules(host));
    checks.push(vfio::access(host, &gpus));
    checks.push(memory::locked(host, asked.guest_memory));
    checks.push(memory::huge_pages(host, asked.guest_memory));
    checks.push(virtualization::vsock(host));
    checks.push(gpu::fabric(host, &gpus));
    for gpu in &gpus {
        checks.push(gpu::driver(host, gpu));
        checks.push(gpu::held(host, gpu));
        checks.push(vfio::group(host, gpu));
        checks.push(gpu::reset(host, gpu));
        checks.push(support::check(gpu, packed));
    }
    if !gpus.is_empty() {
        checks.push(bars::check(host, &gpus, asked.guest_memory));
    }
    Ok(checks)
}

#[cfg(test)]
mod tests;
