//! `boot` as a person or a script uses it: what it prints, where, and its exit code.

use std::{
    fs,
    path::Path,
    process::{Command, Output, Stdio},
};

use image::status::Code;
use rig::{
    build::{initrd, program},
    disk::FileSystem,
    roots::Suite,
    scene::{file_disk, root_disk, told_on_console},
    terminal::{self, Do, Step},
    variant::Variant,
};

/// `boot` of an image with the built kernel, in a directory of its own.
fn boot(dir: &Path, initrd_file: &Path) -> Command {
    boot_with(dir, initrd_file, &initrd().kernel)
}

fn boot_with(dir: &Path, initrd_file: &Path, kernel: &Path) -> Command {
    let mut command = Command::new(program());
    command.current_dir(dir).args(["boot", "--initrd"]).arg(initrd_file);
    command.arg("--kernel").arg(kernel).arg("--lock").arg(&initrd().lock);
    command.arg("--root").arg(root_disk(Suite::Bookworm, FileSystem::Erofs));
    command.stdin(Stdio::null());
    command
}

fn ended(command: &mut Command, code: i32) -> (String, String) {
    let Output { status, stdout, stderr } = command.output().unwrap();
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    let (stdout, stderr) = (text(&stdout), text(&stderr));
    assert_eq!(status.code(), Some(code), "{command:?}\n{stdout}\n{stderr}");
    (stdout, stderr)
}

fn last_line(text: &str) -> &str {
    text.trim_end().lines().last().unwrap_or_default()
}

#[test]
fn boot_runs_config_and_volume_and_returns_the_exit_code() {
    let dir = tempfile::tempdir().unwrap();
    let volume = file_disk(dir.path(), "volume", "file", "on the volume");
    let script = "cat /data/file; echo; touch /data/x || echo read-only; exit 7";
    let config = serde_json::json!({ "entrypoint": ["/bin/sh", "-c", script] }).to_string();
    fs::write(dir.path().join("config.json"), config).unwrap();
    let mut command = boot(dir.path(), &initrd().initrd);
    command.args(["--config", "config.json", "--volume"]).arg(format!("{}:/data:ro", volume.display()));
    let (stdout, stderr) = ended(command.arg("--json"), 7);
    let report: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!((&report["outcome"], &report["exit_status"]), (&"exited".into(), &7.into()), "{report}");
    assert!(stderr.contains("\non the volume\r\n") && stderr.contains("\nread-only\r\n"), "{stderr}");
    // The kernel's own lines are in the file.
    let console = fs::read_to_string(dir.path().join("out/console.log")).unwrap();
    assert!(console.contains("Linux version") && console.contains("on the volume"), "{console}");
    assert!(!stderr.contains("Linux version") && stderr.contains("gpu-initrd: exec done after"), "{stderr}");
}

#[test]
fn failed_boot_and_kernel_panic_have_their_own_exit_codes() {
    let dir = tempfile::tempdir().unwrap();
    let volumes = r#"{"volume_mounts": [{"device": "serial:data", "path": "/data", "mode": "ro"}]}"#;
    fs::write(dir.path().join("config.json"), volumes).unwrap();
    let mut failed = boot(dir.path(), &initrd().initrd);
    failed.args(["--append", "gpu_initrd.disk_timeout=1s gpu_initrd.linger=1s", "--config", "config.json"]);
    let (stdout, stderr) = ended(failed.args(["--", "nvidia-smi"]), 250);
    let note = "nvidia-smi belongs to the driver, and a guest without a GPU gets no driver files";
    assert!(stderr.contains(note), "{stderr}");
    let missing = "volume serial:data on /data: disk serial:data did not appear within 1 s";
    told_on_console(&stdout, Code::VolumeMissing, missing);
    assert!(
        last_line(&stderr).starts_with(&format!("the boot failed: volume-missing: {missing}")),
        "{stderr}"
    );
    let end = "; complete console output: out/console.log (exit code 250)";
    assert!(last_line(&stderr).ends_with(end), "{stderr}");
    assert!(stdout.contains("status is answered for 1 s more; gpu_initrd.linger=TIME"), "{stdout}");

    let mut panics = boot(dir.path(), &initrd().initrd);
    let (_, stderr) = ended(panics.args(["--append", "rdinit=/nothing", "--quiet"]), 251);
    assert!(stderr.contains("last lines of the console:\n"), "{stderr}");
    assert!(last_line(&stderr).starts_with("the guest's kernel panicked: "), "{stderr}");
}

/// Exactly one finding, on the console of a guest without another channel.
#[test]
fn initrd_for_another_kernel_is_refused_by_host_and_guest() {
    let dir = tempfile::tempdir().unwrap();
    let mut variant = Variant::of(&initrd().initrd).unwrap();
    variant.edit_manifest(|manifest| manifest.kernel_release = "6.99.0-other".into());
    let image = dir.path().join("other.img");
    variant.write(&image).unwrap();
    let (_, stderr) = ended(boot(dir.path(), &image).args(["--", "true"]), 125);
    let release = initrd().release();
    assert!(
        stderr.contains(&format!(" is kernel {release}, ")) && stderr.contains("for 6.99.0-other\n"),
        "{stderr}"
    );
    assert!(stderr.contains("  what to do: boot the kernel that build-initrd wrote"), "{stderr}");

    // A kernel image that does not state its release.
    let kernel = dir.path().join("vmlinuz");
    let mut bytes = fs::read(&initrd().kernel).unwrap();
    bytes[0x20e..0x210].fill(0xff);
    fs::write(&kernel, bytes).unwrap();
    let mut command = boot_with(dir.path(), &image, &kernel);
    let (stdout, stderr) = ended(command.args(["--append", "gpu_initrd.linger=0s", "--", "true"]), 250);
    told_on_console(&stdout, Code::KernelMismatch, "this kernel is ");
    assert_eq!(stdout.matches("what to do:").count(), 1, "{stdout}");
    assert!(last_line(&stderr).starts_with("the boot failed: kernel-mismatch: "), "{stderr}");
}

#[test]
fn unusable_inputs_are_refused_before_qemu_starts() {
    let dir = tempfile::tempdir().unwrap();
    let refused = |args: &[&str], expected: &[&str]| {
        let mut command = boot(dir.path(), &initrd().initrd);
        let (_, stderr) = ended(command.args(args), 125);
        assert!(expected.iter().all(|text| stderr.contains(text)), "{args:?}: {stderr}");
        assert!(stderr.contains("  what to do: "), "{stderr}");
    };
    refused(&["--memory", "64"], &["--memory 64: the guest needs at least", "--payload disk, which needs"]);
    let superblock = [vec![0; 1024 + 56], vec![0x53, 0xef], vec![0; 4096]].concat();
    fs::write(dir.path().join("disk"), superblock).unwrap();
    refused(&["--config", "disk", "--volume", "x:/y"], &["--volume cannot be used with a config disk"]);
    refused(&["--config", "/etc/passwd"], &["expected a config.json or a disk image, found a text"]);
    let (_, stderr) = ended(&mut boot_with(dir.path(), &initrd().initrd, Path::new("/etc/passwd")), 125);
    assert!(stderr.contains("--kernel /etc/passwd: expected a kernel, found a text"), "{stderr}");
    refused(&["--volume", "/etc/passwd:/data"], &["expected ext4, EROFS or SquashFS, found a text"]);
    fs::write(dir.path().join("bad.json"), "{\"cmd\": 7}").unwrap();
    refused(&["--config", "bad.json"], &["bad.json: ", "cmd"]);
    refused(&["--volume", "none.ext4:/data"], &["--volume none.ext4"]);
    let mut command = Command::new(program());
    command.current_dir(dir.path()).args(["boot", "--root", "/etc/passwd", "--initrd"]);
    command.arg(&initrd().initrd).arg("--kernel").arg(&initrd().kernel);
    let (_, stderr) = ended(&mut command, 125);
    assert!(stderr.contains("/etc/passwd: expected ext4, EROFS or SquashFS, found a text"), "{stderr}");
    assert!(!dir.path().join("out").exists(), "nothing was begun");
    // No exit code of the program, either.
    let (_, stderr) = ended(Command::new(program()).args(["boot", "--rooot", "x"]), 125);
    assert!(stderr.contains("--rooot"), "{stderr}");
}

#[test]
fn timeout_ends_the_guest() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = boot(dir.path(), &initrd().initrd);
    let (stdout, stderr) = ended(command.args(["--quiet", "--timeout", "3s", "--", "sleep", "1000"]), 253);
    assert!(!stdout.contains("gpu-initrd: "), "{stdout}");
    assert!(last_line(&stderr).starts_with("the guest was ended after 3 s (--timeout)"), "{stderr}");
}

/// Ctrl-C goes to the program; another key ends the guest.
#[test]
fn program_gets_the_size_and_the_keys_of_the_terminal() {
    let dir = tempfile::tempdir().unwrap();
    let command = {
        let mut command = boot(dir.path(), &initrd().initrd);
        command.args(["--", "/bin/sh"]);
        command
    };
    let steps = [
        Step("Ctrl-] ends the guest", Do::Type("")),
        // The interrupted process is not the shell between two commands.
        Step("# ", Do::Type("stty size; sh -c 'echo sleeps; exec sleep 1000'\n")),
        Step("40 100", Do::Type("")),
        Step("sleeps\r", Do::Type("\x03")),
        Step("# ", Do::Type("echo back $((40 + 2))\n")),
        Step("back 42", Do::Type("\x1d")),
    ];
    let (code, screen) = terminal::used(&command, &steps).unwrap();
    assert_eq!(code, Some(254), "{screen}");
    assert!(screen.ends_with(terminal::AS_BEFORE), "{screen}");
    assert!(screen.contains("the guest was ended from this terminal"), "{screen}");
}
