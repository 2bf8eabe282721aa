//! Guests whose root, disks and processes come from an attacker.

use host_builder::common::digest::sha256_file;
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
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// A root with a user whose name is another's number, a link into PID 1's initramfs, and a damaged
/// file in a file system that asks for a panic.
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
        fs::create_dir_all(root.join("run/sshd")).unwrap();
        fs::set_permissions(root.join("run/sshd"), fs::Permissions::from_mode(0o711)).unwrap();
        fs::copy(root.join("usr/bin/id"), root.join("srv/id")).unwrap();
        fs::set_permissions(root.join("srv/id"), fs::Permissions::from_mode(0o4755)).unwrap();
        disk::make(vm_tools(), FileSystem::Ext4, &root, &image).unwrap();
        let on_it = |program: &str, args: &[&str]| {
            run(vm_tools().command(program, &[dir.path().to_owned()]).args(args).arg(&image)).unwrap();
        };
        on_it("debugfs", &["-w", "-R", "clri /srv/damaged"]);
        on_it("tune2fs", &["-e", "panic"]);
        // A journal that was not written back: a mount that writes, or that replays it, writes to
        // the disk.
        let script = dir.path().join("script");
        fs::write(&script, "jo\njw -b 700 /dev/zero\njc\n").unwrap();
        on_it("debugfs", &["-w", "-f", script.to_str().unwrap()]);
        // The superblock says so: the third word of features, bit 2.
        let needs_recovery = fs::read(&image).unwrap()[1024 + 0x60] & 4;
        assert_ne!(needs_recovery, 0);
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
fn numeric_user_is_an_id_and_a_damaged_root_does_not_panic() {
    let dir = tempfile::tempdir().unwrap();
    let text = "echo begin; id -u; id -g; id -G; pwd; cat /srv/damaged 2>/dev/null || echo unreadable; /srv/id -u; stat -c %a /run/sshd; echo end";
    let config = json!({ "entrypoint": script(text), "user": "1000:1000", "workdir": "/srv/new/one" });
    // A disk that could be written to.
    let image = dir.path().join("root");
    fs::copy(root(), &image).unwrap();
    let drive = Drive { image: image.clone(), read_only: false, serial: "root".into() };
    let (_, console) =
        boot(with_config(bare_guest().drive(drive), dir.path(), &config)).wait_for_end(PATIENCE).unwrap();
    let mut checks = Checks::of(&console);
    checks.same(sha256_file(&image).unwrap(), sha256_file(root()).unwrap(), "the disk of the root");
    checks.same(
        between(&console, "begin", "end"),
        // The last is a program with a set-user-ID bit, which has its effect unless no_new_privs is
        // set.
        ["1000", "1000", "1000", "/srv/new/one", "unreadable", "0", "711"],
        "printed",
    );
    checks.that(!console.contains("Kernel panic"), "the kernel panicked");
    checks.has(&console, "EXT4-fs error", "the kernel has met the damage");
}

#[test]
fn working_directory_links_do_not_leave_the_root() {
    let dir = tempfile::tempdir().unwrap();
    let config = json!({ "entrypoint": ["/bin/ls"], "user": "1000:1000", "workdir": "/srv/app" });
    let status = failed(with_config(bare_guest().disk(root(), "root"), dir.path(), &config));
    let invalid = finding(&status, Code::ConfigInvalid);
    assert!(invalid.message.contains("working directory /srv/app"), "{invalid:?}");
}

/// Root in the container, all capabilities: it cannot raise the limit of its group. A third disk is
/// not a config disk if the first has a serial.
#[test]
fn container_cannot_raise_its_memory_limit() {
    let dir = tempfile::tempdir().unwrap();
    let text = [
        "echo begin; cat /proc/self/cgroup /proc/1/comm; set -- /proc/[0-9]*; echo $#; ls -d /proc/1/root/lib/modules 2>/dev/null",
        "(echo 0 > /proc/sys/kernel/modules_disabled) 2>/dev/null; cat /proc/sys/kernel/modules_disabled",
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
    // Only the container's own processes are visible, and no further modules are loaded.
    let console = guest.console();
    assert_eq!(between(&console, "begin", "end"), ["0::/", "gpu-initrd", "2", "1"], "{console}");
    let exit = status.container.as_ref().and_then(|container| container.exit);
    assert_eq!(exit, Some(Exit { code: None, signal: Some(9), oom: true }), "{:?}", status.findings);
    finding(&status, Code::OomKilled);
}

/// A program that exempts itself from being killed: first the kernel finds the container's PID 1
/// instead, then no process.
#[test]
fn unkillable_program_ends_at_its_memory_limit() {
    let text = [
        // A group of its own, which would keep the next run from joining the one with the limit.
        "cd /sys/fs/cgroup; test -e /again || { mkdir x; for p in 1 $$; do echo $p > x/cgroup.procs; done; echo +memory > cgroup.subtree_control; }",
        "cd /proc; echo group $(cat self/cgroup); echo -1000 > self/oom_score_adj",
        "test ! -e /again || echo -1000 > 1/oom_score_adj",
        "echo protected $(cat self/oom_score_adj 1/oom_score_adj)",
        "touch /again; exec ending memory",
    ]
    .join("; ");
    let options = "gpu_initrd.restart=on-failure:1 gpu_initrd.linger=120s";
    let setup = guest().memory_mib(256).cmdline(&format!("{options} -- /bin/sh -c \"{text}\""));
    let guest = boot(setup);
    let status = wait(&guest, Until::Exited);
    let console = guest.console();
    let protected = |line: &str| console.lines().any(|found| found.trim() == line);
    assert!(protected("protected -1000 0") && protected("protected -1000 -1000"), "{console}");
    assert!(protected("group 0::/x") && protected("group 0::/"), "{console}");
    assert!(!console.contains("Kernel panic"), "{console}");
    let container = status.container.as_ref().unwrap();
    assert_eq!(container.restarts, 1, "{:?}", status.findings);
    assert_eq!(
        container.exit,
        Some(Exit { code: None, signal: Some(9), oom: true }),
        "{:?}",
        status.findings
    );
    finding(&status, Code::OomKilled);
}

/// Root with the capabilities of a container engine's default: everything of the guest is invisible
/// and unreachable. Each unexpected line is an attack that worked.
#[test]
fn confined_container_cannot_see_or_change_the_guest() {
    let dir = tempfile::tempdir().unwrap();
    let text = r"echo begin
        cut -d ' ' -f 1 /proc/1/comm; set -- /proc/[0-9]*; echo $#
        for f in root cwd; do ls /proc/1/$f/ >/dev/null 2>&1 && echo reached $f; done
        readlink /proc/1/exe /proc/1/fd/0; head -c 1 /proc/1/environ /proc/1/exe 2>/dev/null
        grep -E '^(CapBnd|CapPrm|NoNewPrivs)' /proc/self/status
        mount -t tmpfs none /mnt 2>/dev/null && echo mounted; umount -l / 2>/dev/null && echo unmounted
        mount -o remount,rw /proc/sys 2>/dev/null && echo mounted anew
        for f in kernel/core_pattern kernel/printk kernel/modprobe user/max_user_namespaces vm/overcommit_memory; do
            (echo 1 > /proc/sys/$f) 2>/dev/null && echo wrote $f
        done
        for f in /proc/sysrq-trigger /proc/dynamic_debug/control /sys/kernel/uevent_helper /sys/kernel/mm/ksm/run; do (echo h > $f) 2>/dev/null && echo wrote $f; done
        unshare -Urmpf --mount-proc sh -c 'echo 1 > /proc/sys/kernel/printk' 2>/dev/null && echo in a namespace
        unshare -Ur true 2>/dev/null && echo a user namespace; unshare -m true 2>/dev/null && echo a mount namespace
        for d in /dev /tmp /run /dev/shm; do
            mknod $d/k c 1 11 && (echo forged > $d/k) 2>/dev/null && echo forged in $d
            mknod $d/b b 254 0 && head -c 1 $d/b >/dev/null 2>&1 && echo read a disk in $d
        done
        cat /proc/kcore /proc/keys /proc/slabinfo /proc/kpageflags 2>/dev/null | wc -c
        setpriv --reuid 4242 --clear-groups /srv/id -u
        head -c 4 /dev/zero | wc -c; echo x > /dev/null; ls /sys/firmware | wc -l
        until [ $(cat /proc/sys/kernel/modules_disabled) = 1 ]; do sleep 0.1; done
        echo end";
    // Module loading is locked soon after the start of a program that could load none.
    let config = json!({ "entrypoint": script(text), "capabilities": "default", "no_new_privs": true });
    let setup = with_config(bare_guest().disk(root(), "root"), dir.path(), &config);
    let (_, console) = boot(setup).wait_for_end(PATIENCE).unwrap();
    let engines = "00000000a80425fb";
    let expected = [
        "gpu-initrd",
        "2",
        &format!("CapPrm:\t{engines}"),
        &format!("CapBnd:\t{engines}"),
        "NoNewPrivs:\t1",
        "0",
        // Not of the set-user-ID bit. (setpriv would resolve 1000 as a name, which is the attack of
        // another test.)
        "4242",
        "4",
        "0",
    ];
    assert_eq!(between(&console, "begin", "end"), expected, "{console}");
}

/// What another guest has left on the writable disk.
#[test]
fn links_on_a_writable_disk_are_not_followed() {
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
    assert!(unusable.message.contains("upper on") && unusable.message.contains("not a link"), "{unusable:?}");

    let config = json!({
        "entrypoint": ["/bin/true"],
        "volume_mounts": [{ "device": "/dev/vdb", "path": "/data", "mode": "overlay", "overlay_device": "/dev/vdc" }],
    });
    let setup = guest()
        .disk(&root_disk(Suite::Bookworm, FileSystem::Erofs), "data")
        .drive(disk_with("writes", "work"));
    let status = failed(with_config(setup, dir.path(), &config));
    let unusable = finding(&status, Code::VolumeUnusable);
    assert!(unusable.message.contains("work on") && unusable.message.contains("not a link"), "{unusable:?}");
}
