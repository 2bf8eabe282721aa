//! Guests whose root, disks and processes are made by an attacker.

use image::layout;
use image::status::{Code, Exit, Outcome, Status};
use image::wire::Until;
use rig::checks::Checks;
use rig::disk::{self, FileSystem};
use rig::guest::Setup;
use rig::process::run;
use rig::qemu::Drive;
use rig::roots::{Recipe, Suite};
use rig::scene::{
    PATIENCE, bare_guest, between, boot, file_disk, finding, guest, root_disk, vm_tools, wait, with_config,
};
use rig::tools::Tools;
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// A root with a user whose name is another's number, a link into PID 1's initramfs, and a damaged file in a file system that asks for
/// a panic.
fn root() -> &'static Path {
    static DISK: OnceLock<(tempfile::TempDir, PathBuf)> = OnceLock::new();
    let make = || {
        let dir = tempfile::tempdir().unwrap();
        let (root, image) = (dir.path().join("root"), dir.path().join("root.ext4"));
        run(Command::new("cp")
            .arg("-a")
            .arg(Recipe::minbase(Suite::Bookworm).directory().unwrap())
            .arg(&root))
        .unwrap();
        let passwd = fs::read_to_string(root.join("etc/passwd")).unwrap();
        fs::write(root.join("etc/passwd"), format!("1000:x:0:0:root:/root:/bin/sh\n{passwd}")).unwrap();
        fs::create_dir_all(root.join("srv")).unwrap();
        symlink("/proc/1/root", root.join("srv/app")).unwrap();
        fs::write(root.join("srv/damaged"), "x").unwrap();
        disk::make(vm_tools(), FileSystem::Ext4, &root, &image).unwrap();
        let on_it = |program: &str, args: &[&str]| {
            run(vm_tools().command(program, &[dir.path().to_owned()]).args(args).arg(&image)).unwrap();
        };
        on_it("debugfs", &["-w", "-R", "clri /srv/damaged"]);
        on_it("tune2fs", &["-e", "panic"]);
        (dir, image)
    };
    &DISK.get_or_init(make).1
}

fn script(text: &str) -> Value {
    json!(["/bin/sh", "-c", text])
}

/// The status of a boot that fails.
fn failed(setup: Setup) -> Status {
    let status = wait(&boot(setup.cmdline("gpu_initrd.linger=120s")), Until::Ready);
    assert_eq!((status.outcome, status.container.as_ref()), (Outcome::Failed, None), "{:?}", status.findings);
    status
}

#[test]
fn digits_are_an_id_and_a_damaged_root_panics_no_kernel() {
    let dir = tempfile::tempdir().unwrap();
    let text =
        "echo begin; id -u; id -g; id -G; pwd; cat /srv/damaged 2>/dev/null || echo unreadable; echo end";
    let config = json!({ "entrypoint": script(text), "user": "1000:1000", "workdir": "/srv/new/one" });
    let setup = with_config(bare_guest().disk(root(), "root"), dir.path(), &config);
    let (_, console) = boot(setup).wait_for_end(PATIENCE).unwrap();
    let mut checks = Checks::of(&console);
    checks.same(
        between(&console, "begin", "end"),
        ["1000", "1000", "1000", "/srv/new/one", "unreadable"],
        "printed",
    );
    checks.that(!console.contains("Kernel panic"), "the kernel panicked");
    checks.has(&console, "EXT4-fs error", "the kernel has met the damage");
}

#[test]
fn a_working_directory_leads_out_of_the_root_through_no_link() {
    let dir = tempfile::tempdir().unwrap();
    let config = json!({ "entrypoint": ["/bin/ls"], "user": "1000:1000", "workdir": "/srv/app" });
    let status = failed(with_config(bare_guest().disk(root(), "root"), dir.path(), &config));
    let invalid = finding(&status, Code::ConfigInvalid);
    assert!(invalid.message.contains("working directory /srv/app"), "{invalid:?}");
}

/// Root in the container, all capabilities: the limit of its group is not its own to lift. A third disk is no config disk where the first has a
/// name.
#[test]
fn a_containers_memory_limit_is_not_lifted_from_inside() {
    let dir = tempfile::tempdir().unwrap();
    let text = [
        "echo begin; cat /proc/self/cgroup",
        "for f in memory.max memory.high cgroup.procs; do (echo max > /sys/fs/cgroup/$f) 2>/dev/null && echo lifted $f; done",
        "mkdir /tmp/c; mount -t cgroup2 none /tmp/c && (echo max > /tmp/c/memory.max) 2>/dev/null && echo lifted",
        "echo end; exec ending memory",
    ]
    .join("; ");
    let evil = file_disk(dir.path(), "third", layout::CONFIG_FILE, r#"{"entrypoint": ["/bin/false"]}"#);
    let empty = dir.path().join("second");
    disk::empty(vm_tools(), &empty).unwrap();
    let setup = guest().disk(&empty, "").disk(&evil, "").memory_mib(256);
    let guest = boot(setup.cmdline(&format!("gpu_initrd.linger=120s -- /bin/sh -c \"{text}\"")));
    let status = wait(&guest, Until::Exited);
    assert_eq!(between(&guest.console(), "begin", "end"), ["0::/"], "{}", guest.console());
    let exit = status.container.as_ref().and_then(|container| container.exit);
    assert_eq!(exit, Some(Exit { code: None, signal: Some(9), oom: true }), "{:?}", status.findings);
    finding(&status, Code::OomKilled);
}

/// What another guest has left on the disk that takes the writes.
#[test]
fn links_on_a_disk_for_writes_are_not_followed() {
    let dir = tempfile::tempdir().unwrap();
    let disk_with = |name: &str, link: &str| {
        let (source, image) = (dir.path().join(format!("{name}.d")), dir.path().join(name));
        fs::create_dir(&source).unwrap();
        symlink("/usr", source.join(link)).unwrap();
        disk::make(vm_tools(), FileSystem::Ext4, &source, &image).unwrap();
        Drive { image, read_only: false, serial: name.into() }
    };
    let status = failed(guest().drive(disk_with("upper", "upper")).cmdline("-- true"));
    let unusable = finding(&status, Code::RootUnusable);
    assert!(unusable.message.contains("upper on") && unusable.message.contains("no link"), "{unusable:?}");

    let config = json!({
        "entrypoint": ["/bin/true"],
        "volume_mounts": [{ "device": "/dev/vdb", "path": "/data", "mode": "overlay", "overlay_device": "/dev/vdc" }],
    });
    let setup = guest()
        .disk(&root_disk(Suite::Bookworm, FileSystem::Erofs), "data")
        .drive(disk_with("writes", "work"));
    let status = failed(with_config(setup, dir.path(), &config));
    let unusable = finding(&status, Code::RootUnusable);
    assert!(unusable.message.contains("work on") && unusable.message.contains("no link"), "{unusable:?}");
}
