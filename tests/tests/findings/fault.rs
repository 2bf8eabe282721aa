//! Defects of the initrd and of guest-init: an image without a manifest, or without a driver, and a
//! guest-init that panics.

use super::{failed, real_variant};
use image::layout;
use image::status::{Code, Outcome, PhaseOutcome, Severity};
use image::wire::Until;
use rig::guest::Guest;
use rig::scene::{PATIENCE, boot, guest_of, guest_with_fault, told, told_on_console, wait};

/// Waits for the end and returns the console: the machine was powered off, in order, by PID 1.
fn console_of_end(guest: &mut Guest) -> String {
    let (status, console) = guest.wait_for_end(PATIENCE).unwrap();
    assert!(status.success(), "{status}");
    // A kernel that loses PID 1 panics, which ends QEMU, too.
    assert!(!console.contains("Kernel panic") && console.contains("reboot: Power down"), "{console}");
    console
}

#[test]
fn panic_reports_its_location_and_powers_off() {
    let mut guest = boot(guest_with_fault("panic").cmdline("-- true"));
    let status = wait(&guest, Until::Ready);
    assert_eq!((status.outcome, status.container.as_ref()), (Outcome::Failed, None));
    let panicked = told(&status, Code::Internal, Severity::Error, "");
    let place = "panicked at guest-init/src/lifecycle/fault.rs:";
    let line = panicked.message.split_once(place).map(|(_, rest)| rest.split(':').next().unwrap());
    assert!(line.is_some_and(|line| line.parse::<u32>().is_ok()), "{panicked:?}");
    assert!(panicked.message.contains("a fault was injected"), "{panicked:?}");
    assert!(status.phases.iter().all(|time| time.outcome != PhaseOutcome::Running), "{:?}", status.phases);
    let console = console_of_end(&mut guest);
    assert!(console.contains("gpu-initrd: internal: guest-init panicked: "), "{console}");
    let last = console.lines().rfind(|line| line.contains("gpu-initrd: powering off: ")).unwrap();
    assert!(last.contains(place) && last.ends_with("; exit status 1"), "{last}");
}

/// Then nothing can be reported over vsock. The console has the finding, and the guest ends
/// nevertheless.
#[test]
fn panic_that_holds_the_status_board_ends_the_guest() {
    let mut guest = boot(guest_with_fault("panic-at-the-board").cmdline("-- true"));
    let console = console_of_end(&mut guest);
    assert!(console.contains("panicked at guest-init/src/lifecycle/fault.rs:"), "{console}");
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
