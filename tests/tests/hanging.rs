//! Guests in which something does not respond: each ends within its deadlines, and says why.

use image::status::{Code, Outcome, Severity};
use image::wire::{Reply, Request, Until};
use rig::build::{faulty_guest_init, initrd_with};
use rig::roots::{Recipe, Suite};
use rig::scene::{PATIENCE, bare_guest, boot, finding, guest_of, request, told, wait};

#[test]
fn phase_that_hangs_ends_the_boot() {
    let program = faulty_guest_init().to_string_lossy();
    let built = initrd_with(&["--payload", "disk", "--guest-init", &program]);
    let limits = "gpu_initrd.step_timeout=2s gpu_initrd.disk_timeout=1s";
    let setup = guest_of(&built.initrd).cmdline(&format!("gpu_initrd_fault=hang {limits} -- true"));
    let mut guest = boot(setup);
    let status = wait(&guest, Until::Ready);
    assert_eq!((status.outcome, status.container.as_ref()), (Outcome::Failed, None));
    let late = told(&status, Code::StepTimedOut, Severity::Error, "");
    assert_eq!(late.message, "phase config did not end within 3 s");
    let (_, console) = guest.wait_for_end(PATIENCE).unwrap();
    assert!(console.contains("powering off: the boot failed: step-timed-out: phase config"), "{console}");
}

/// Before the root is mounted, and while the program runs: then the guest can still be stopped.
#[test]
fn share_whose_daemon_dies_hangs_no_guest() {
    let root = Recipe::minbase(Suite::Trixie).directory().unwrap();
    let setup = || bare_guest().share(&root, "rootfs");
    let mut guest =
        boot(setup().cmdline("gpu_initrd.root=virtiofs:rootfs gpu_initrd.step_timeout=3s -- true"));
    // Every device is set up (QEMU would wait for this one at each change), and nothing is mounted yet.
    guest.wait_for_console("device-mapper: ioctl", PATIENCE).unwrap();
    guest.kill_shares().unwrap();
    let status = wait(&guest, Until::Ready);
    assert_eq!(status.outcome, Outcome::Failed);
    let message = &finding(&status, Code::RootUnusable).message;
    assert!(
        message.contains("mounting an overlay on /run/gpu-initrd/root did not end within 3 s"),
        "{message}"
    );
    guest.wait_for_end(PATIENCE).unwrap();

    let mut guest = boot(setup().cmdline("gpu_initrd.root=virtiofs:rootfs -- sleep 10000"));
    assert_eq!(wait(&guest, Until::Ready).outcome, Outcome::Ready);
    guest.kill_shares().unwrap();
    assert!(matches!(request(&guest, &Request::Stop { signal: 9, grace_ms: None }), Reply::Status(_)));
    let (_, console) = guest.wait_for_end(PATIENCE).unwrap();
    assert!(console.contains("powering off: the container ended: killed by SIGKILL"), "{console}");
}
