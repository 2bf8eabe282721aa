//! Defects of the initrd and of guest-init: an image without a manifest, or without a driver, and a
//! guest-init that panics.

use super::{failed, real_variant};
use image::layout;
use image::status::{Code, Outcome, Phase, PhaseOutcome, Severity};
use image::wire::{Reply, Request, Until};
use rig::disk::FileSystem;
use rig::guest::Guest;
use rig::roots::Suite;
use rig::scene::{
    PATIENCE, ask, boot, guest_of, guest_with_fault, request, root_disk, told, told_on_console, wait,
};

/// Waits for the end and returns the console: the machine was powered off, in order, by PID 1.
fn console_of_end(guest: &mut Guest) -> String {
    let (status, console) = guest.wait_for_end(PATIENCE).unwrap();
    assert!(status.success(), "{status}");
    // A kernel that loses PID 1 panics, which ends QEMU, too.
    assert!(!console.contains("Kernel panic") && console.contains("reboot: Power down"), "{console}");
    console
}

/// With `on_failure=hold` the guest is there until it is asked to stop.
#[test]
fn panic_reports_its_location_and_follows_on_failure() {
    let options = "gpu_initrd.on_failure=hold gpu_initrd.linger=0s -- true";
    let mut guest = boot(guest_with_fault("panic").cmdline(options));
    let status = wait(&guest, Until::Ready);
    assert_eq!((status.outcome, status.container.as_ref()), (Outcome::Failed, None));
    let panicked = told(&status, Code::Internal, Severity::Error, "");
    let place = "panicked at guest-init/src/lifecycle/fault.rs:";
    let line = panicked.message.split_once(place).map(|(_, rest)| rest.split(':').next().unwrap());
    assert!(line.is_some_and(|line| line.parse::<u32>().is_ok()), "{panicked:?}");
    assert!(panicked.message.contains("a fault was injected"), "{panicked:?}");
    assert!(status.phases.iter().all(|time| time.outcome != PhaseOutcome::Running), "{:?}", status.phases);
    guest.wait_for_console("gpu-initrd: holding: ", PATIENCE).unwrap();
    assert_eq!(ask(&guest).findings, status.findings);
    assert!(matches!(request(&guest, &Request::Stop { signal: 15, grace_ms: None }), Reply::Status(_)));
    let console = console_of_end(&mut guest);
    assert!(console.contains("gpu-initrd: internal: guest-init panicked at "), "{console}");
    let last = console.lines().rfind(|line| line.contains("gpu-initrd: holding: ")).unwrap();
    assert!(last.contains(place) && last.ends_with("; exit status 1"), "{last}");
}

/// Nothing can be asked then, even though it was only a helper. The console has the reason, and the
/// guest ends as after any failed boot.
#[test]
fn helper_panic_with_the_status_board_locked_reboots() {
    let options = "gpu_initrd.on_failure=reboot -- true";
    let mut guest = boot(guest_with_fault("panic-at-the-board").cmdline(options));
    let (_, console) = guest.wait_for_end(PATIENCE).unwrap();
    let last = console.lines().rfind(|line| line.contains("gpu-initrd: rebooting: ")).unwrap();
    assert!(last.contains("panicked at guest-init/src/lifecycle/fault.rs:"), "{last}");
    assert!(!console.contains("Kernel panic") && console.contains("reboot: Restarting system"), "{console}");
}

/// The boot and the program go on.
#[test]
fn panic_of_a_helper_is_a_warning_and_the_helper_is_restarted() {
    let root = root_disk(Suite::Bookworm, FileSystem::Erofs);
    let setup = guest_with_fault("panic-in-helper").disk(&root, "root");
    let options = "gpu_initrd.linger=120s -- sh -c \"sleep 3; exit 5\"";
    let mut guest = boot(setup.cmdline(options));
    let status = wait(&guest, Until::Exited);
    assert_eq!(status.outcome, Outcome::Ready);
    assert_eq!(status.container.as_ref().unwrap().exit.unwrap().code, Some(5));
    let panicked = told(&status, Code::Internal, Severity::Warning, "");
    let place = "helper thread fault panicked at guest-init/src/lifecycle/fault.rs:";
    assert!(panicked.message.starts_with(place), "{panicked:?}");
    assert!(panicked.message.ends_with("a fault was injected; it is restarted"), "{panicked:?}");
    guest.wait_for_console("gpu-initrd: the faulty helper works again", PATIENCE).unwrap();
}

/// The image's init owns the machine, which goes on, and so do the answers to the host.
#[test]
fn panic_beside_the_images_init_only_restarts_the_helper() {
    let root = root_disk(Suite::Bookworm, FileSystem::Erofs);
    let setup = guest_with_fault("panic-in-keeper").disk(&root, "root");
    let mut guest = boot(setup.cmdline("gpu_initrd.init_mode=systemd -- sleep 1000"));
    guest.wait_for_console("gpu-initrd: the faulty helper works again", PATIENCE).unwrap();
    let status = ask(&guest);
    assert_eq!((status.outcome, status.phase), (Outcome::Ready, Phase::Running));
    told(&status, Code::Internal, Severity::Warning, "");
    let stop = Request::Stop { signal: 15, grace_ms: Some(1000) };
    assert!(matches!(request(&guest, &stop), Reply::Status(_)));
    console_of_end(&mut guest);
}

/// Without a manifest there are no modules, hence no vsock: only the console has the finding.
#[test]
fn unreadable_manifest_is_reported_on_the_console() {
    let dir = tempfile::tempdir().unwrap();
    let image = real_variant(dir.path(), |variant| *variant.file(layout::MANIFEST) = b"{".to_vec());
    let console = console_of_end(&mut boot(guest_of(&image).cmdline("gpu_initrd.linger=0s -- true")));
    let code = Code::ManifestInvalid.name();
    told_on_console(&console, Code::ManifestInvalid, &format!("{}: ", layout::MANIFEST));
    assert!(console.contains("what to do: Rebuild the initrd"), "{console}");
    assert!(console.contains(&format!("powering off: the boot failed: {code}")), "{console}");
}

#[test]
fn required_gpu_without_a_driver_ends_the_boot() {
    let dir = tempfile::tempdir().unwrap();
    let image = real_variant(dir.path(), |variant| variant.edit_manifest(|manifest| manifest.driver = None));
    let setup = guest_of(&image).cmdline("HAS_GPU=1 gpu_initrd.gpu=required gpu_initrd.linger=120s");
    let status = failed(setup);
    let none = told(&status, Code::NoDriver, Severity::Error, "");
    assert!(none.message.contains("the initrd contains no driver"), "{none:?}");
}
