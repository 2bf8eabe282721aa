//! `doctor`: what an operator's manual calls troubleshooting, before the boot. Looks at a host, or at a container image,
//! says pass, warn or fail with the remedy, and changes nothing.

mod bars;
mod container;
mod cuda;
mod device;
mod disk;
mod erofs;
mod fabric;
mod gpu;
mod group;
mod guest;
mod held;
mod host;
mod iommu;
mod kvm;
mod memlock;
mod memory;
mod packed;
mod report;
mod support;
mod vfio;
mod view;
mod vsock;

pub use crate::programs::sandbox::Tools;
pub use container::{Container, check as check_container};
pub use disk::{Kind as Disk, unpack};
pub use erofs::lacking;
pub use host::Host;
pub use kvm::TestGuest;
pub use packed::{Origin, Packed};
pub use report::{CHECKS, Check, Report, SCHEMA, Verdict};
pub use view::screen;

use crate::common::error::Result;

/// What a host is looked at for.
#[derive(Debug, Default)]
pub struct Asked<'a> {
    /// PCI addresses of the GPUs, as `0000:01:00.0`; empty: all of NVIDIA's.
    pub gpus: &'a [String],
    /// Memory that the guest will have, MiB.
    pub guest_memory: Option<u64>,
    /// What an image carries: its driver's own list of GPUs decides then, where it could be read.
    pub packed: Option<&'a Packed>,
    /// What came of a test guest on KVM; `None`: none was started.
    pub test_guest: Option<&'a TestGuest>,
}

/// Every check of a host.
pub fn check_host(host: &Host, asked: &Asked) -> Result<Vec<Check>> {
    let (gpus, mut checks) = gpu::chosen(host, asked.gpus)?;
    let packed = asked.packed.filter(|packed| packed.unread.is_none());
    checks.push(kvm::check(host, asked.test_guest));
    checks.extend(iommu::check(host));
    checks.push(vfio::modules(host));
    checks.push(vfio::access(host, &gpus));
    checks.push(memlock::check(host, asked.guest_memory));
    checks.push(memory::check(host, asked.guest_memory));
    checks.push(vsock::check(host));
    checks.push(fabric::check(host, &gpus));
    for gpu in &gpus {
        checks.push(gpu::driver(host, gpu));
        checks.push(held::check(host, gpu));
        checks.push(group::check(host, gpu));
        checks.push(gpu::reset(host, gpu));
        checks.push(support::check(gpu, packed));
    }
    if !gpus.is_empty() {
        checks.push(bars::check(host, &gpus, asked.guest_memory));
    }
    Ok(checks)
}

pub(crate) mod file_systems;
#[cfg(test)]
mod tests;
