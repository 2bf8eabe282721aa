//! The driver's files in an EROFS image, in the initrd and on a disk: mounted, checked, given to a container.

#![allow(clippy::unwrap_used, reason = "the helpers of a test may panic as the test may")]

use image::layout;
use image::status::{Code, Outcome, Phase, PhaseOutcome, Status};
use rig::build::{Built, initrd_with};
use rig::disk::FileSystem;
use rig::guest::{Guest, Setup};
use rig::phantom::Model;
use rig::roots::Suite;
use rig::scene::{PATIENCE, ask, between, boot, file_disk, finding, guest_of, root_disk};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

const DISK: &[&str] = &["--payload", "disk"];

/// The default build: the kernel has EROFS, so that the driver is an image in the initrd.
fn image() -> &'static Built {
    static BUILT: OnceLock<Built> = OnceLock::new();
    BUILT.get_or_init(|| initrd_with(&[]))
}

fn disk() -> &'static Built {
    static BUILT: OnceLock<Built> = OnceLock::new();
    BUILT.get_or_init(|| initrd_with(DISK))
}

fn driver_disk() -> &'static Path {
    disk().disk.as_deref().unwrap()
}

/// A script for a container that has a GPU: what it sees of the driver, and the adapter opened once more.
const LOOK: &str = "echo dlopen; dlopen libcuda.so.1 libcuda.so libnvidia-ml.so.1; echo files
    for f in $(find / -xdev -name 'lib*.so.550*' -o -xdev -name nvidia-smi); do stat -c '%n %s %a %u:%g' $f; done | sort; echo sums
    for f in $(find / -xdev -name 'lib*.so.550*'); do sha256sum $f; done; echo smi
    nvidia-smi; echo smi ended with $?
    rm /usr/bin/nvidia-smi; ls /usr/bin/nvidia-smi 2>/dev/null; echo removed $?; echo done; sleep 1000";

fn with_script(setup: Setup, dir: &Path, text: &str) -> Setup {
    let json = serde_json::json!({ "entrypoint": ["/bin/sh", "-c", text] }).to_string();
    setup.disk(&file_disk(dir, "config", layout::CONFIG_FILE, &json), "config")
}

fn root() -> PathBuf {
    root_disk(Suite::Trixie, FileSystem::Ext4)
}

/// Boots with a phantom H100, and returns the guest when its container has looked.
fn look(setup: Setup) -> Guest {
    let dir = tempfile::tempdir().unwrap();
    let setup = with_script(setup.disk(&root(), "root"), dir.path(), LOOK).gpu(Model::H100);
    let mut guest = boot(setup.cmdline("HAS_GPU=1 gpu_initrd.gpu=optional"));
    guest.wait_for_console("done", PATIENCE).unwrap();
    guest
}

/// The container has every file that the manifest lists, byte for byte, and the adapter gets its firmware each time.
fn assert_whole(guest: &Guest, built: &Built) {
    let console = guest.console();
    let status = ask(guest);
    assert_eq!(status.outcome, Outcome::Ready);
    assert!(status.resolved.iter().all(|resolved| resolved.ours), "{:?}", status.resolved);
    let opened = between(&console, "dlopen", "files");
    assert!(opened.iter().any(|line| line.starts_with("libcuda.so.1 ")), "{opened:?}");
    let files = between(&console, "files", "sums");
    assert!(
        files.iter().any(|line| line.starts_with("/usr/bin/nvidia-smi ") && line.ends_with(" 755 0:0")),
        "{files:?}"
    );
    let sums = between(&console, "sums", "smi");
    let manifest = rig::variant::manifest(&built.initrd).unwrap();
    let packed: Vec<_> = manifest.files.iter().filter(|file| file.path.ends_with(built.driver())).collect();
    assert!(packed.len() > 8);
    for file in packed {
        let image::manifest::Kind::File { sha256, .. } = &file.kind else { continue };
        let name = file.path.rsplit('/').next().unwrap();
        assert!(
            sums.iter().any(|line| line.starts_with(sha256) && line.ends_with(name)),
            "{name} in {sums:#?}"
        );
    }
    assert!(console.contains("No devices were found\nsmi ended with 6\nremoved 2\n"), "{console}");
    let failed = finding(&status, Code::AdapterInitFailed);
    assert!(
        failed.evidence.iter().any(|line| line.contains("RmInitAdapter failed! (0x62:0x65:")),
        "{failed:?}"
    );
    // Once for PID 1, once for nvidia-smi: both got as far, so both had their firmware.
    let reached = console.matches("RmInitAdapter failed! (0x62:0x65:").count();
    assert!(reached >= 2, "{reached} times in {console}");
    assert!(!console.contains("Direct firmware load"), "{console}");
}

fn phase(status: &Status, wanted: Phase) -> PhaseOutcome {
    status.phases.iter().find(|time| time.phase == wanted).unwrap().outcome
}

#[test]
fn the_default_image_mounts_its_driver_from_the_initrd() {
    assert_eq!(image().report["payload"]["mode"], "image", "{}", image().report);
    let guest = look(guest_of(&image().initrd));
    assert_whole(&guest, image());
    assert_eq!(phase(&ask(&guest), Phase::Payload), PhaseOutcome::Done);
}

#[test]
fn a_disk_carries_the_driver_for_a_small_guest() {
    let guest = look(guest_of(&disk().initrd).disk(driver_disk(), "driver").memory_mib(256));
    assert_whole(&guest, disk());
}

#[test]
fn persistent_memory_carries_the_driver_too() {
    let guest = look(guest_of(&disk().initrd).pmem(driver_disk()));
    assert_whole(&guest, disk());
}
