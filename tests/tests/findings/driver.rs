//! Findings about the driver's modules and nodes.

use super::{failed, real_variant, variant, with_root};
use image::layout;
use image::status::{Code, GpuState, Severity};
use rig::build::initrd_for_disk;
use rig::guest::Setup;
use rig::phantom::Model;
use rig::scene::{stub_build, told, with_driver};
use std::path::Path;

/// Debian signs its own modules; NVIDIA's are unsigned.
#[test]
fn unsigned_driver_is_rejected_when_signatures_are_enforced() {
    let setup = with_root(with_driver(&initrd_for_disk().initrd, initrd_for_disk()))
        .gpu(Model::H100)
        .cmdline("module.sig_enforce=1");
    let status = failed(setup);
    let rejected =
        told(&status, Code::ModuleRejected, Severity::Error, "Loading of unsigned module is rejected");
    assert!(rejected.hint.contains("module.sig_enforce"), "{rejected:?}");
    assert_eq!(status.gpus[0].state, GpuState::Failed);
}

#[test]
fn driver_and_libraries_of_different_versions_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let image = real_variant(dir.path(), |variant| {
        variant.edit_manifest(|manifest| manifest.driver.as_mut().unwrap().version = "550.999.99".into());
    });
    let status = failed(with_root(with_driver(&image, initrd_for_disk())).gpu(Model::H100));
    let mismatch = told(&status, Code::ModuleVersionMismatch, Severity::Error, "");
    assert!(
        mismatch.message.contains("550.999.99") && mismatch.message.contains(initrd_for_disk().driver()),
        "{mismatch:?}"
    );
    assert_eq!(status.driver_loaded.as_deref(), Some(initrd_for_disk().driver()));
}

/// A guest of a variant of the image with the stub driver, and one GPU.
fn stub(image: &Path) -> Setup {
    with_root(with_driver(image, stub_build())).gpu(Model::H100)
}

/// The stub, whose misc device is in the place of nvidiactl, in an image whose manifest lacks
/// nvidia-uvm and one of the programs.
#[test]
fn missing_uvm_missing_program_and_node_conflict_are_findings() {
    let dir = tempfile::tempdir().unwrap();
    let image = variant(&stub_build().initrd, dir.path(), |variant| {
        variant.edit_manifest(|manifest| {
            manifest.modules.retain(|module| module.name != "nvidia_uvm");
            manifest.files.retain(|file| file.path != "/usr/bin/nvidia-modprobe");
        });
    });
    let status = failed(stub(&image).cmdline("nvidia.node=nvidiactl"));
    told(&status, Code::DriverFileMissing, Severity::Info, "nvidia-modprobe is missing (capability utility)");
    let missing = told(&status, Code::UvmMissing, Severity::Error, "");
    assert!(
        missing.message.contains("nvidia-uvm") && missing.message.contains("CUDA cannot start"),
        "{missing:?}"
    );
    let conflict = told(&status, Code::NodeConflict, Severity::Warning, "");
    assert!(conflict.message.contains("/dev/nvidiactl was the character device 10:"), "{conflict:?}");
    let node = status.nodes.iter().find(|node| node.path == "/dev/nvidiactl").unwrap();
    assert_eq!((node.major, node.minor), (195, 255), "it has been replaced");
    assert_eq!(status.gpus[0].state, GpuState::Ready, "what is there has come up");
}

/// The stub, whose misc device makes a directory of nvidiactl, in an image that lacks a file of its
/// manifest.
#[test]
fn missing_module_and_failed_node_are_findings() {
    let dir = tempfile::tempdir().unwrap();
    let file = layout::gpu_module(initrd_for_disk().release(), "not-packed.ko");
    let image = variant(&stub_build().initrd, dir.path(), |variant| {
        variant.edit_manifest(|manifest| {
            let uvm = manifest.modules.iter_mut().find(|module| module.name == "nvidia_uvm").unwrap();
            uvm.path.clone_from(&file);
        });
    });
    let status = failed(stub(&image).cmdline("nvidia.node=nvidiactl/foreign"));
    let missing = told(&status, Code::ModuleMissing, Severity::Error, "");
    assert!(missing.message.contains(&file) && missing.message.contains("nvidia_uvm"), "{missing:?}");
    let failed = told(&status, Code::NodeFailed, Severity::Error, "");
    assert!(failed.message.contains("/dev/nvidiactl"), "{failed:?}");
}
