//! The end of a guest: restarts, holding after a failure, and the log.

use image::event::{Happening, LogSource};
use image::status::{Code, Outcome, Severity};
use image::wire::{Reply, Request, Until};
use rig::disk::{self, FileSystem};
use rig::scene::{PATIENCE, ask, bare_guest, boot, finding, guest, request, vm_tools, wait};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

#[test]
fn failed_program_restarts_as_often_as_the_policy_allows() {
    let setup = guest().cmdline("gpu_initrd.restart=on-failure:2 gpu_initrd.linger=120s -- ending exit 4");
    let guest = boot(setup);
    let status = wait(&guest, Until::Exited);
    let container = status.container.as_ref().unwrap();
    assert_eq!((container.restarts, container.exit.unwrap().code), (2, Some(4)));
    assert_eq!(container.last_exit.unwrap().code, Some(4));
    let Reply::Logs(logs) =
        request(&guest, &Request::Logs { source: LogSource::Container, from: 0, timeout_ms: 0 })
    else {
        panic!("no log")
    };
    let marks: Vec<_> = logs.lines.iter().filter(|line| line.text.starts_with("--- ")).collect();
    assert_eq!(marks.len(), 2, "{logs:?}");
    assert_eq!(marks[0].text, "--- the program ended: exit code 4; restarting it for the 1st time ---");
    assert_eq!(status.outcome, Outcome::Ready);
    let Reply::Events(events) = request(&guest, &Request::Events { from: 0, timeout_ms: 0 }) else {
        panic!("no events")
    };
    let started = events.events.iter().filter_map(|event| match event.what {
        Happening::Started { restarts, .. } => Some(restarts),
        _ => None,
    });
    assert_eq!(started.collect::<Vec<_>>(), [0, 1, 2]);
}

#[test]
fn held_failed_boot_answers_requests() {
    // Promised GPUs are missing although HAS_GPU=1 is not set; another failure ends the boot.
    let setup =
        guest().cmdline("gpu_initrd.gpus=2 gpu_initrd.gpu=optional gpu_initrd.on_failure=hold gpu_initrd.linger=0s -- no-such-program");
    let mut guest = boot(setup);
    let last = guest.wait_for_console("gpu-initrd: holding: ", PATIENCE).unwrap();
    assert!(
        last.contains(
            "the boot failed: entrypoint-not-found: no-such-program is not in any directory of PATH"
        ),
        "{last}"
    );
    assert!(last.ends_with("exit status 1"), "{last}");
    let status = ask(&guest);
    assert_eq!(status.outcome, Outcome::Failed);
    assert_eq!(finding(&status, Code::EntrypointNotFound).link, "docs/findings.md#entrypoint-not-found");
    let errors = status.findings.iter().filter(|finding| finding.severity == Severity::Error);
    assert_eq!(
        errors.map(|finding| finding.code).collect::<Vec<_>>(),
        [Code::EntrypointNotFound, Code::NoGpu]
    );
    assert!(finding(&status, Code::NoGpu).message.starts_with("gpu_initrd.gpus=2 promises"));
    // It can be stopped, too.
    let stop = Request::Stop { signal: 15, grace_ms: None };
    assert!(matches!(request(&guest, &stop), Reply::Status(_)));
    guest.wait_for_end(PATIENCE).unwrap();
}

/// QEMU ends where the guest reboots. A script in PATH without its interpreter exists, and cannot
/// be run.
#[test]
fn failed_boot_lingers_and_reboots() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("root.d");
    fs::create_dir_all(root.join("bin")).unwrap();
    fs::write(root.join("bin/tool"), "#!/opt/interpreter\n").unwrap();
    fs::set_permissions(root.join("bin/tool"), fs::Permissions::from_mode(0o755)).unwrap();
    let image = dir.path().join("root.img");
    disk::make(vm_tools(), FileSystem::Erofs, &root, &image).unwrap();
    let setup = bare_guest().disk(&image, "root");
    let mut guest = boot(setup.cmdline("gpu_initrd.on_failure=reboot gpu_initrd.linger=3s -- tool"));
    let status = wait(&guest, Until::Ready);
    let told = finding(&status, Code::EntrypointNotExecutable);
    assert!(told.message.starts_with("/bin/tool is in the image, but its interpreter"), "{told:?}");
    let (_, console) = guest.wait_for_end(PATIENCE).unwrap();
    let last = console.lines().find(|line| line.contains("gpu-initrd: rebooting: ")).unwrap();
    let seconds = last.trim_start_matches('[').split(']').next().unwrap().trim().parse::<f64>().unwrap();
    assert!(Duration::from_secs_f64(seconds) >= Duration::from_millis(told.at_ms + 2900), "{last} {told:?}");
}

/// At the default level, a line for each phase and the last one; with debug there is more. What the
/// program writes is kept.
#[test]
fn each_phase_is_logged_and_program_output_is_kept() {
    let ours = |console: &str| -> Vec<String> {
        let words = console.lines().filter_map(|line| Some(line.split_once("gpu-initrd: ")?.1.to_owned()));
        words.collect()
    };
    let script = "/bin/sh -c \"printf 'one\\ntwo\\n'; printf three\"";
    let mut quiet = boot(guest().cmdline(&format!("gpu_initrd.linger=20s -- {script}")));
    let status = wait(&quiet, Until::Exited);
    assert_eq!(status.container.as_ref().unwrap().output, ["one", "two", "three"]);
    let logs = |source| match request(&quiet, &Request::Logs { source, from: 0, timeout_ms: 0 }) {
        Reply::Logs(logs) => logs,
        other => panic!("{other:?}"),
    };
    let output = logs(LogSource::Container);
    assert_eq!(
        output.lines.iter().map(|line| line.text.as_str()).collect::<Vec<_>>(),
        ["one", "two", "three"]
    );
    assert_eq!((output.next, output.lost), (4, 0));
    let kernel = logs(LogSource::Kernel);
    assert!(
        kernel.lines.iter().any(|line| line.text.contains("Command line: ")),
        "the first lines are there"
    );
    let (_, console) = quiet.wait_for_end(PATIENCE).unwrap();
    let lines = ours(&console);
    let phases = status.phases.len();
    assert!(lines.len() <= phases + 1, "{phases} phases, and {lines:#?}");
    assert!(lines.iter().any(|line| line.starts_with("root done after ")), "{lines:#?}");

    let mut verbose = boot(guest().cmdline("gpu_initrd.debug gpu_initrd.linger=0s -- true"));
    let (_, console) = verbose.wait_for_end(PATIENCE).unwrap();
    assert!(ours(&console).len() > 2 * lines.len(), "{console}");
}
