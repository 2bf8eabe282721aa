//! Guests in which something does not respond: each ends within its deadlines, and says why.

use image::status::{Code, Outcome, Severity};
use image::wire::{Reply, Request, Until};
use rig::disk::FileSystem;
use rig::phantom::Model;
use rig::roots::{Recipe, Suite};
use rig::scene::{
    PATIENCE, bare_guest, boot, finding, guest_with_fault, guest_with_stub, request, root_disk, wait,
};

#[test]
fn phase_that_hangs_ends_the_boot() {
    let limits = "gpu_initrd.step_timeout=20s gpu_initrd.disk_timeout=1s gpu_initrd.linger=5s -- true";
    let mut guest = boot(guest_with_fault("hang").cmdline(limits));
    let status = wait(&guest, Until::Ready);
    assert_eq!((status.outcome, status.container.as_ref()), (Outcome::Failed, None));
    let late = finding(&status, Code::StepTimedOut);
    assert_eq!((late.severity, &*late.message), (Severity::Error, "phase config did not end within 21 s"));
    let (_, console) = guest.wait_for_end(PATIENCE).unwrap();
    assert!(console.contains("powering off: the boot failed: step-timed-out: phase config"), "{console}");
}

/// The root's disk stops answering before it is mounted. (In `stopping`, another one while it is written to.)
#[test]
fn disk_that_stops_answering_ends_the_boot() {
    let options = "gpu_initrd.step_timeout=12s gpu_initrd.linger=5s -- true";
    let setup = guest_with_fault("slow").disk(&root_disk(Suite::Bookworm, FileSystem::Erofs), "root");
    let mut guest = boot(setup.cmdline(options));
    guest.wait_for_console("gpu-initrd: modules done", PATIENCE).unwrap();
    guest.freeze_disk(0).unwrap();
    let status = wait(&guest, Until::Ready);
    assert_eq!(status.outcome, Outcome::Failed);
    let message = &finding(&status, Code::RootUnusable).message;
    assert!(message.contains(" did not end within 12 s"), "{message}");
    guest.wait_for_end(PATIENCE).unwrap();
}

/// With `gpu=optional` the program runs all the same.
#[test]
fn module_whose_init_sleeps_ends_no_boot_without_need() {
    let options = "HAS_GPU=1 gpu_initrd.gpu=optional gpu_initrd.step_timeout=8s nvidia.asleep=600000 -- /bin/sh -c \"exit 5\"";
    let setup = guest_with_stub().disk(&root_disk(Suite::Bookworm, FileSystem::Erofs), "root");
    let mut guest = boot(setup.gpu(Model::L4).cmdline(options));
    let status = wait(&guest, Until::Exited);
    assert_eq!(status.exit_status(), 5);
    let message = &finding(&status, Code::ModuleFailed).message;
    assert!(message.contains("nvidia") && message.contains(" did not end within 8 s"), "{message}");
    guest.wait_for_end(PATIENCE).unwrap();
}

/// Before the root is mounted, and while the program runs: then the guest can still be stopped.
#[test]
fn share_whose_daemon_dies_hangs_no_guest() {
    let root = Recipe::minbase(Suite::Trixie).directory().unwrap();
    let options = "gpu_initrd.root=virtiofs:rootfs gpu_initrd.step_timeout=15s gpu_initrd.linger=5s -- true";
    let mut guest = boot(guest_with_fault("slow").share(&root, "rootfs").cmdline(options));
    // Every device is set up, and the boot takes its time before it mounts anything.
    guest.wait_for_console("gpu-initrd: modules done", PATIENCE).unwrap();
    guest.kill_shares().unwrap();
    assert!(!guest.console().contains("gpu-initrd: config done"), "the share was killed too late");
    let status = wait(&guest, Until::Ready);
    assert_eq!(status.outcome, Outcome::Failed);
    let message = &finding(&status, Code::RootUnusable).message;
    assert!(message.contains(" did not end within 15 s"), "{message}");
    guest.wait_for_end(PATIENCE).unwrap();

    let setup = bare_guest().share(&root, "rootfs");
    let mut guest = boot(setup.cmdline("gpu_initrd.root=virtiofs:rootfs -- sleep 10000"));
    assert_eq!(wait(&guest, Until::Ready).outcome, Outcome::Ready);
    guest.kill_shares().unwrap();
    assert!(matches!(request(&guest, &Request::Stop { signal: 9, grace_ms: None }), Reply::Status(_)));
    let (_, console) = guest.wait_for_end(PATIENCE).unwrap();
    assert!(console.contains("powering off: the container ended: killed by SIGKILL"), "{console}");
}
