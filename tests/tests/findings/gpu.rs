//! Findings about the GPUs: the real driver on phantoms.

use super::{failed, with_root};
use image::status::{Code, Finding, GpuState, Outcome, Severity};
use image::wire::Until;
use rig::build::initrd_for_disk;
use rig::guest::Setup;
use rig::phantom::{Condition, Model};
use rig::scene::{boot, complete, finding, told, wait, wait_for, with_driver};

/// A guest of the real driver.
fn real() -> Setup {
    with_root(with_driver(&initrd_for_disk().initrd, initrd_for_disk()))
}

/// One GPU too few, a parameter that is not a number, a key that does not exist: each has its own
/// name.
#[test]
fn gpu_count_bad_parameter_and_unknown_key_are_findings() {
    let line = "gpu_initrd.gpus=2 gpu_initrd.nonsense=1 nvidia.NVreg_DeviceFileMode=no-number";
    let status = failed(real().gpu(Model::L4).cmdline(line));
    let mismatch = told(&status, Code::GpuCountMismatch, Severity::Error, "0000:01:00.0 10de:27b8");
    assert!(mismatch.message.contains("promised 2 GPUs, but the PCI bus has 1"), "{mismatch:?}");
    let refused = told(&status, Code::ModuleFailed, Severity::Error, "`no-number' invalid for parameter");
    assert!(refused.message.contains("module nvidia: EINVAL"), "{refused:?}");
    assert_eq!(status.gpus[0].state, GpuState::Failed);
    let unknown = told(&status, Code::ConfigUnknownKey, Severity::Warning, "");
    assert!(unknown.message.contains("gpu_initrd.nonsense"), "{unknown:?}");
}

/// A GPU that comes from another guest without a reset, on a board with NVSwitches; then the host
/// removes it.
#[test]
fn used_gpu_missing_fabric_and_unplugged_gpu_are_findings() {
    let setup = real().gpu_that_is(Condition::InUse, Model::H100).gpu(Model::NvSwitch);
    let guest = boot(setup.cmdline("gpu_initrd.gpu=optional -- /bin/sleep 1000"));
    let status = wait(&guest, Until::Ready);
    assert_eq!(status.outcome, Outcome::Ready, "{status:#?}");
    assert_eq!(status.gpus.iter().map(|gpu| gpu.state).collect::<Vec<_>>(), [GpuState::Failed]);
    let busy = told(&status, Code::Wpr2AlreadyUp, Severity::Error, "unexpected WPR2 already up");
    assert!(busy.hint.contains("Reset the GPU on the host") && busy.message.contains(&status.gpus[0].bdf));
    let fabric = told(&status, Code::FabricNotReady, Severity::Warning, "0000:02:00.0 10de:22a3");
    assert!(fabric.message.contains("error 802"), "{fabric:?}");

    guest.unplug(0).unwrap();
    let status = wait_for(&guest, "the loss of the GPU", |status| status.gpus[0].state == GpuState::Lost);
    let lost = told(&status, Code::GpuLost, Severity::Error, "/sys/bus/pci/devices/0000:01:00.0 is gone");
    assert!(lost.message.contains("no longer on the PCI bus"), "{lost:?}");
    assert_eq!(status.outcome, Outcome::Ready, "the container runs on");
}

/// GPUs that the driver supports and cannot use: its own lines say why.
#[test]
fn dead_and_unaddressed_gpus_are_not_called_unsupported() {
    let setup = real().gpu_that_is(Condition::Dead, Model::L4).gpu_that_is(Condition::NoBar, Model::H100);
    let status = failed(setup);
    assert!(status.gpus.iter().all(|gpu| gpu.state == GpuState::Failed), "{:?}", status.gpus);
    let of = |bdf: &str| {
        let is_it = |finding: &&Finding| finding.code == Code::GpuNotBound && finding.message.contains(bdf);
        status.findings.iter().find(is_it).unwrap_or_else(|| panic!("{bdf}: {:?}", status.findings))
    };
    let dead = of(&status.gpus[0].bdf);
    assert!(dead.message.contains("it has fallen off the bus"), "{dead:?}");
    let no_bar = of(&status.gpus[1].bdf);
    assert!(
        no_bar.message.contains("without an address")
            && no_bar.evidence.concat().contains("BAR0 is 0M @ 0x0"),
        "{no_bar:?}"
    );
    told(&status, Code::GpuNotBound, Severity::Error, "NVRM: ");
}

#[test]
fn too_little_memory_for_the_driver_is_a_finding() {
    let status = failed(real().gpu(Model::H100).memory_mib(160));
    finding(&status, Code::LowMemory);
    // The kernel may have ended a process meanwhile, which is a warning of the same code.
    let is_it = |found: &&Finding| found.code == Code::LowMemory && found.severity == Severity::Error;
    let low = status.findings.iter().find(is_it).unwrap_or_else(|| panic!("{:#?}", status.findings));
    complete(low, "NV_ERR_NO_MEMORY");
    assert!(low.message.contains("ran out of memory while it initialised the adapter"), "{low:?}");
    assert_eq!(status.gpus[0].state, GpuState::Failed);
}
