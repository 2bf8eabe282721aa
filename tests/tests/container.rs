//! The container in a guest without a GPU: its root, its namespaces, its end.

use image::layout;
use image::status::{Code, Exit, Outcome, Phase, Severity, Status};
use image::wire::{Reply, Request, Until};
use rig::build::program;
use rig::checks::Checks;
use rig::disk::{self, FileSystem};
use rig::qemu::Drive;
use rig::roots::{Recipe, Suite};
use rig::scene::{
    PATIENCE, ask, bare_guest, between, boot, file_disk, finding, guest, request, root_disk, target,
    vm_tools, wait, wait_for,
};
use serde_json::json;
use std::process::{Command, Stdio};

/// Runs a command to its end and returns the status then.
fn run(command: &str, memory_mib: u32) -> Status {
    let setup = guest().memory_mib(memory_mib).cmdline(&format!("gpu_initrd.linger=120s -- {command}"));
    wait(&boot(setup), Until::Exited)
}

fn exit(status: &Status) -> Exit {
    status.container.as_ref().and_then(|container| container.exit).unwrap_or_else(|| panic!("{status:#?}"))
}

#[test]
fn exit_code_reaches_the_host() {
    let status = run("ending exit 42", 512);
    assert_eq!(exit(&status), Exit { code: Some(42), signal: None, oom: false });
    assert_eq!((status.phase, status.outcome), (Phase::Exited, Outcome::Ready));
    assert_eq!(status.findings, []);
}

#[test]
fn deadly_signal_reaches_the_host() {
    assert_eq!(exit(&run("ending signal 11", 512)), Exit { code: None, signal: Some(11), oom: false });
    // One without a name, whose default is the same.
    assert_eq!(exit(&run("ending signal 40", 512)), Exit { code: None, signal: Some(40), oom: false });
}

/// The kernel marks itself as tainted (8192) when it loads a module without a signature.
#[test]
fn modules_keep_their_signatures_for_a_kernel_that_demands_them() {
    let tainted = |option: &str| {
        let program = "-- /bin/sh -c \"echo begin; cat /proc/sys/kernel/tainted; echo end\"";
        let mut guest = boot(guest().cmdline(&format!("{option} {program}")));
        let (_, console) = guest.wait_for_end(PATIENCE).unwrap();
        between(&console, "begin", "end").concat()
    };
    assert_eq!(tainted("module.sig_enforce=0"), "8192");
    assert_eq!(tainted("module.sig_enforce=1"), "0");
    assert_eq!(tainted("lockdown=integrity"), "0");
}

/// reboot(2) in the container's namespace is not the guest's, and is meant.
#[test]
fn container_that_powers_off_succeeds_without_a_restart() {
    let call = "syscall(169, 0xfee1dead, 672274793, 0x4321fedc, 0); sleep 100";
    let setup =
        guest().cmdline(&format!("gpu_initrd.restart=always gpu_initrd.linger=120s -- perl -e \"{call}\""));
    let status = wait(&boot(setup), Until::Exited);
    let container = status.container.unwrap();
    let well = Exit { code: Some(0), signal: None, oom: false };
    assert_eq!((container.exit, container.restarts), (Some(well), 0), "{:?}", status.findings);
}

#[test]
fn out_of_memory_kill_reaches_the_host() {
    let status = run("ending memory", 256);
    assert_eq!(exit(&status), Exit { code: None, signal: Some(9), oom: true });
    assert_eq!(finding(&status, Code::OomKilled).severity, Severity::Error);
}

#[test]
fn missing_and_unexecutable_programs_are_distinguished() {
    let absent = run("no-such-program", 512);
    assert_eq!((absent.outcome, absent.container.as_ref()), (Outcome::Failed, None));
    assert!(finding(&absent, Code::EntrypointNotFound).message.contains("no-such-program"));
    let file = run("/etc/passwd", 512);
    assert!(finding(&file, Code::EntrypointNotExecutable).message.contains("/etc/passwd"));
}

#[test]
fn pid_1_forwards_signals_and_reaps_orphans() {
    let dir = tempfile::tempdir().unwrap();
    let script = "trap 'echo got usr1' USR1; trap 'echo got term; exit 7' TERM
        for i in 1 2 3 4 5; do (sh -c 'exit 0' &); done; sleep 1
        kill -USR1 1; sleep 1; echo zombies; cat /proc/[0-9]*/stat | grep -c ' Z '; echo counted
        kill -TERM 1; sleep 30; exit 1";
    let config = json!({ "entrypoint": ["/bin/sh", "-c", script] }).to_string();
    let config = file_disk(dir.path(), "config", layout::CONFIG_FILE, &config);
    let mut guest = boot(guest().disk(&config, "config"));
    let (_, console) = guest.wait_for_end(PATIENCE).unwrap();
    assert!(console.contains("\ngot usr1\n") && console.contains("\ngot term\n"), "{console}");
    assert_eq!(between(&console, "zombies", "counted"), ["0"]);
    assert!(console.contains("the container ended: exit code 7"), "{console}");
}

/// hypeman's three disks, by their names, and its file.
#[test]
fn disks_and_config_of_hypeman_are_accepted() {
    let dir = tempfile::tempdir().unwrap();
    let script = "id -u; id -g; pwd; echo $A $HOME; echo kept > /kept; cat /data/file; echo x > /data/new && echo written; cat /ro/file; touch /ro/x 2>/dev/null || echo read-only; cat /run/app/file /dev/shm/data/file; echo end";
    let config = json!({
        "entrypoint": ["/bin/sh"], "cmd": ["-c", format!("echo begin; {script}")], "workdir": "/usr/share",
        "env": { "A": "from config" }, "user": "games", "network_enabled": false, "has_gpu": false, "init_mode": "exec",
        "volume_mounts": [
            { "device": "/dev/vdd", "path": "/data", "mode": "overlay", "overlay_device": "/dev/vde" },
            { "device": "/dev/vdd", "path": "/ro", "mode": "ro" },
            // In memory of the container's own; a disk that is not there.
            { "device": "/dev/vdd", "path": "/run/app", "mode": "ro" },
            { "device": "/dev/vdd", "path": "/dev/shm/data", "mode": "ro" },
            { "device": "/dev/vdz", "path": "/gone", "mode": "rw" },
        ],
    });
    let mut config = config;
    config["user"] = json!("0:60");
    let config = file_disk(dir.path(), "config", layout::CONFIG_FILE, &config.to_string());
    let data = file_disk(dir.path(), "data", "file", "on the volume\n");
    let (upper, data_upper) = (dir.path().join("upper"), dir.path().join("data-upper"));
    disk::empty(vm_tools(), &upper).unwrap();
    disk::empty(vm_tools(), &data_upper).unwrap();
    let writable =
        |image: &std::path::Path| Drive { image: image.into(), read_only: false, serial: String::new() };
    let setup = || {
        bare_guest()
            .disk(&root_disk(Suite::Bookworm, FileSystem::Ext4), "")
            .drive(writable(&upper))
            .disk(&config, "")
            .disk(&data, "")
            .drive(writable(&data_upper))
    };
    let mut guest = boot(setup());
    let (_, console) = guest.wait_for_end(PATIENCE).unwrap();
    let printed = between(&console, "begin", "end");
    let expected = [
        "0",
        "60",
        "/usr/share",
        "from config /root",
        "on the volume",
        "written",
        "on the volume",
        "read-only",
        "on the volume",
        "on the volume",
    ];
    let mut checks = Checks::of(&console);
    checks.same(printed, expected, "what the program printed");
    checks.has(
        &console,
        "config-unknown-key: config.json has hypeman keys that have no effect here: network_enabled",
        "the console",
    );
    checks.has(&console, "volume-missing: volume /dev/vdz on /gone", "the console");
    drop(checks);
    // The second disk keeps what was written.
    let mut guest = boot(setup().cmdline("-- cat /kept"));
    let (_, console) = guest.wait_for_end(PATIENCE).unwrap();
    assert!(console.contains("\nkept\n"), "{console}");
}

#[test]
fn virtiofs_root_boots_and_is_not_written_to() {
    let root = Recipe::minbase(Suite::Trixie).directory().unwrap();
    let setup = bare_guest()
        .share(&root, "rootfs")
        .cmdline("gpu_initrd.root=virtiofs:rootfs -- /bin/sh -c \"echo x > /usr/lib/written && cat /etc/debian_version\"");
    let mut guest = boot(setup);
    let (_, console) = guest.wait_for_end(PATIENCE).unwrap();
    assert!(console.lines().any(|line| line.starts_with("13.")), "{console}");
    assert!(!root.join("usr/lib/written").exists());
}

#[test]
fn missing_root_disk_is_reported_after_the_timeout() {
    let setup = bare_guest().cmdline(
        "gpu_initrd.root=serial:elsewhere gpu_initrd.disk_timeout=1s gpu_initrd.linger=120s -- true",
    );
    let status = wait(&boot(setup), Until::Ready);
    assert_eq!(status.outcome, Outcome::Failed);
    let finding = finding(&status, Code::RootUnusable);
    assert!(
        finding.message.contains("serial:elsewhere") && finding.message.contains("within 1 s"),
        "{finding:?}"
    );
}

#[test]
fn bad_command_line_value_ends_the_boot_and_is_quoted() {
    let guest = boot(guest().cmdline("gpu_initrd.gpu=perhaps gpu_initrd.linger=120s -- true"));
    let status = wait(&guest, Until::Ready);
    assert_eq!((status.outcome, status.container.as_ref()), (Outcome::Failed, None));
    let words = "gpu_initrd.gpu expects required, optional or off, found \"perhaps\"";
    assert!(finding(&status, Code::ConfigInvalid).message.contains(words), "{:?}", status.findings);
    assert!(guest.console().contains(words));
}

#[test]
fn program_of_another_user_can_reopen_its_output() {
    let dir = tempfile::tempdir().unwrap();
    let script = "id -u; echo opened > /dev/stdout; echo end";
    let config =
        json!({ "entrypoint": ["/bin/sh", "-c", format!("echo begin; {script}")], "user": "1000:1000" });
    let config = file_disk(dir.path(), "config", layout::CONFIG_FILE, &config.to_string());
    let mut guest = boot(guest().disk(&config, "config"));
    let (_, console) = guest.wait_for_end(PATIENCE).unwrap();
    assert_eq!(between(&console, "begin", "end"), ["1000", "opened"], "{console}");
}

#[test]
fn missing_systemd_init_is_reported_once() {
    let setup = guest().cmdline("gpu_initrd.init_mode=systemd gpu_initrd.linger=120s");
    let guest = boot(setup);
    let status = wait(&guest, Until::Ready);
    assert_eq!(status.outcome, Outcome::Failed);
    assert!(finding(&status, Code::EntrypointNotFound).message.contains("/sbin/init"));
    for _ in 0..10 {
        assert_eq!(ask(&guest).outcome, Outcome::Failed);
    }
}

/// The real systemd becomes PID 1, and the guest still answers status requests.
#[test]
fn systemd_takes_over_and_status_is_still_answered() {
    let dir = tempfile::tempdir().unwrap();
    let root = Recipe::minbase(Suite::Trixie).with(&["systemd-sysv"]).directory().unwrap();
    let image = dir.path().join("systemd.erofs");
    disk::make(vm_tools(), FileSystem::Erofs, &root, &image).unwrap();
    let setup =
        bare_guest().disk(&image, "root").cmdline("gpu_initrd.init_mode=systemd gpu_initrd.control=exec");
    let mut guest = boot(setup);
    guest.wait_for_console("Reached target", PATIENCE).unwrap();
    let status = wait_for(&guest, "an answer beside systemd", |status| status.phase == Phase::Running);
    assert_eq!((status.outcome, status.container.unwrap().pid), (Outcome::Ready, 1));
    assert!(ask(&guest).uptime_ms > 0);
    // A command joins the image's init.
    let mut command = Command::new(program());
    command.args(["exec", &target(&guest).to_string(), "--", "sh", "-c", "cat /proc/1/comm /etc/hostname"]);
    let output = command.stdin(Stdio::null()).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.starts_with("systemd\n"), "{output:?}");
    // systemd stops the guest in its own way.
    let stop = Request::Stop { signal: 15, grace_ms: Some(60_000) };
    assert!(matches!(request(&guest, &stop), Reply::Status(_)));
    guest.wait_for_console("Reached target", PATIENCE).unwrap();
    let (_, console) = guest.wait_for_end(PATIENCE).unwrap();
    assert!(console.contains("reboot: Power down"), "{console}");
}
