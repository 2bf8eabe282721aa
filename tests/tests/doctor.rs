//! `doctor`: the real program on real roots and images. Its checks of a host are tested on fake
//! hosts, in host-builder.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use host_builder::common::digest::sha256_file;
use host_builder::common::error::{Error, Result};
use host_builder::doctor::{
    Asked, CHECKS, HostRoot, ImageFileSystem, Origin, Packed, Tools, Verdict, check_host,
};
use host_builder::initramfs::{Archive, Want};
use host_builder::vm::accel::{Choice, choose};
use host_builder::vm::qemu::Accel;
use image::{layout, manifest::Manifest};
use rig::{
    build::{Built, initrd, initrd_with, program},
    disk::FileSystem,
    process::run,
    roots::{Recipe, Suite},
    scene::{file_disk, root_disk, vm_tools},
    tools::Tools as _,
    variant::{Variant, patch},
};
use serde_json::Value;

fn doctor(image: &Path, args: &[&str], paths: &[(&str, &Path)], dir: &Path) -> Output {
    let mut command = Command::new(program());
    command.arg("doctor").arg(image).arg("--lock").arg(&initrd().lock).args(args).current_dir(dir);
    for (option, path) in paths {
        command.arg(option).arg(path);
    }
    command.output().unwrap()
}

/// Its report on a container root, by the names of the checks, and its exit code.
fn of_root(image: &Path, paths: &[(&str, &Path)]) -> (BTreeMap<String, Value>, i32) {
    let dir = tempfile::tempdir().unwrap();
    let output = doctor(image, &["--json"], paths, dir.path());
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let report: Value =
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {said}"));
    assert_eq!(report["schema"], 1);
    assert_eq!(report["driver"], initrd().driver());
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "it leaves something behind");
    let checks = report["checks"].as_array().unwrap();
    let checks = checks.iter().map(|check| (check["name"].as_str().unwrap().to_owned(), check.clone()));
    (checks.collect(), output.status.code().unwrap())
}

fn is(checks: &BTreeMap<String, Value>, name: &str, verdict: &str, words: &[&str]) {
    let check = checks.get(name).unwrap_or_else(|| panic!("no check {name}: {checks:?}"));
    assert_eq!(check["verdict"], verdict, "{check}");
    for word in words {
        assert!(check.to_string().contains(word), "{word}: {check}");
    }
}

/// Every name below a directory with size, mode, times and target.
fn listing(root: &Path) -> Vec<u8> {
    let output =
        run(Command::new("find").arg(root).args(["-printf", "%p %s %m %U %G %T@ %C@ %l\n"])).unwrap();
    output.stdout
}

fn payload_image() -> Built {
    initrd_with(&[])
}

fn payload_disk() -> Built {
    initrd_with(&["--payload", "disk"])
}

#[test]
fn directory_and_every_disk_give_the_same_report() {
    let root = Recipe::minbase(Suite::Bookworm).directory().unwrap();
    let before = listing(&root);
    let (expected, code) = of_root(&initrd().initrd, &[("--root", &root)]);
    assert!(listing(&root) == before, "the root was changed");
    assert_eq!(code, 0, "{expected:?}");
    is(&expected, "image-driver", "pass", &[initrd().driver(), initrd().release()]);
    is(&expected, "container-read", "pass", &[]);
    is(&expected, "container-libc", "pass", &["glibc 2.36"]);
    let lib = "/usr/lib/x86_64-linux-gnu/libcuda.so";
    is(
        &expected,
        "container-files",
        "pass",
        &[&format!("{lib}.1 -> {}", "libcuda.so"), &format!("{lib}.{}", initrd().driver())],
    );
    is(&expected, "container-driver-files", "pass", &["the image has none"]);
    is(&expected, "container-cuda", "pass", &["no CUDA runtime"]);
    is(&expected, "container-requires", "warn", &["--config"]);
    for kind in [FileSystem::Ext4, FileSystem::Erofs, FileSystem::Squashfs] {
        let disk = root_disk(Suite::Bookworm, kind);
        let before = sha256_file(&disk).unwrap();
        let found = of_root(&initrd().initrd, &[("--root", &disk)]);
        assert_eq!(found, (expected.clone(), 0), "{kind:?}");
        assert_eq!(sha256_file(&disk).unwrap(), before, "{kind:?} was changed");
    }
}

/// The driver in plain files, in an image of the initrd, on a disk: the same answer.
#[test]
fn every_payload_mode_is_inspected() {
    let root = Recipe::minbase(Suite::Trixie).directory().unwrap();
    let (expected, _) = of_root(&initrd().initrd, &[("--root", &root)]);
    is(&expected, "container-libc", "pass", &["glibc 2.41"]);
    let (found, _) = of_root(&payload_image().initrd, &[("--root", &root)]);
    assert_eq!(found, expected);
    let built = payload_disk();
    let disk = built.disk.as_deref().unwrap();
    let (found, _) = of_root(&built.initrd, &[("--root", &root), ("--payload-disk", disk)]);
    assert_eq!(found, expected);
    let dir = tempfile::tempdir().unwrap();
    let output = doctor(&built.initrd, &[], &[("--root", &root)], dir.path());
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(2) && said.contains("--payload-disk FILE"), "{said}");
}

#[test]
fn image_without_glibc_is_reported_to_get_nodes_only() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("alpine");
    for path in ["lib", "bin", "etc"] {
        fs::create_dir_all(root.join(path)).unwrap();
    }
    fs::write(root.join("lib/ld-musl-x86_64.so.1"), "musl").unwrap();
    symlink("ld-musl-x86_64.so.1", root.join("lib/libc.musl-x86_64.so.1")).unwrap();
    let (checks, code) = of_root(&initrd().initrd, &[("--root", &root)]);
    assert_eq!(code, 0);
    is(
        &checks,
        "container-libc",
        "warn",
        &["musl, without glibc", "only the device nodes", "use an image with glibc"],
    );
    is(&checks, "container-files", "pass", &["no driver files are injected"]);
}

/// A hostile name and an old driver, a CUDA that is too new, and a requirement that is not met.
#[test]
fn driver_files_and_requests_of_an_image_are_reported() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("root");
    run(Command::new("cp").arg("-a").arg(Recipe::minbase(Suite::Trixie).directory().unwrap()).arg(&root))
        .unwrap();
    let lib = root.join("usr/lib/x86_64-linux-gnu");
    fs::write(lib.join("libcuda.so.999.54.03"), "old").unwrap();
    fs::create_dir_all(root.join("usr/local/cuda-99.1")).unwrap();
    fs::write(root.join("usr/local/cuda-99.1/version.json"), r#"{"cuda": {"version": "99.1.2"}}"#).unwrap();
    fs::create_dir_all(root.join("opt/\x1b[2Jx")).unwrap();
    fs::write(root.join("opt/\x1b[2Jx/libcudart.so.99.2"), "").unwrap();
    let config = dir.path().join("config.json");
    fs::write(
        &config,
        r#"{"env": {"NVIDIA_REQUIRE_CUDA": "cuda>=99.0", "NVIDIA_DRIVER_CAPABILITIES": "compute,ngx"}}"#,
    )
    .unwrap();
    let paths = [("--root", root.as_path()), ("--config", &config)];
    let (checks, code) = of_root(&initrd().initrd, &paths);
    assert_eq!(code, 1);
    is(
        &checks,
        "container-driver-files",
        "pass",
        &["999.54.03", "/usr/lib/x86_64-linux-gnu/libcuda.so.999.54.03"],
    );
    is(&checks, "container-cuda", "fail", &["CUDA 99.2", "/usr/local/cuda-99.1/version.json: CUDA 99.1"]);
    is(&checks, "container-requires", "fail", &["NVIDIA_REQUIRE_CUDA=cuda>=99.0"]);
    is(&checks, "container-files", "warn", &["ngx", "--capabilities"]);
    let output = doctor(&initrd().initrd, &[], &paths, dir.path());
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.starts_with("fail  ") && text.contains("what to do: ") && !text.contains('\x1b'), "{text}");
}

/// The program of the container is inspected as in the guest: a script's interpreter has its own
/// library directory, with an old driver in it. And GPUs that no guest has are refused as the guest
/// refuses them.
#[test]
fn effect_of_the_configuration_is_reported() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("root");
    run(Command::new("cp").arg("-a").arg(Recipe::minbase(Suite::Trixie).directory().unwrap()).arg(&root))
        .unwrap();
    fs::create_dir_all(root.join("opt/conda/lib")).unwrap();
    let source = dir.path().join("source.c");
    fs::write(&source, "void _start(void) {}\n").unwrap();
    let mut cc = Command::new("cc");
    cc.args(["-nostdlib", "-pie", "-fPIE", "-Wl,--disable-new-dtags,-rpath,$ORIGIN/lib", "-o"]);
    run(cc.arg(root.join("opt/conda/python")).arg(&source)).unwrap();
    fs::write(root.join("opt/train"), "#!/usr/bin/env python\n").unwrap();
    fs::write(root.join("opt/conda/lib/libcuda.so.1"), "old").unwrap();
    let config = dir.path().join("config.json");
    let text = r#"{"entrypoint": ["/opt/train"], "env": {"PATH": "/opt/conda", "NVIDIA_VISIBLE_DEVICES": "nvidia.com/gpu=0:1"}}"#;
    fs::write(&config, text).unwrap();
    let (checks, code) = of_root(&initrd().initrd, &[("--root", &root), ("--config", &config)]);
    assert_eq!(code, 1);
    is(&checks, "container-driver-files", "pass", &["hidden", "/opt/conda/lib/libcuda.so.1"]);
    is(&checks, "container-gpus", "fail", &["MIG instance 0:1", "NVIDIA_VISIBLE_DEVICES"]);
    // The same from the config disk that a guest is given.
    let disk = file_disk(dir.path(), "config-disk", layout::CONFIG_FILE, text);
    let (of_disk, _) = of_root(&initrd().initrd, &[("--root", &root), ("--config", &disk)]);
    assert_eq!(of_disk, checks);
}

/// debugfs follows a link in place of a file that it writes: a hostile image can have two entries
/// of one name. It would write to the host; here it cannot.
#[test]
fn hostile_disk_writes_nothing_outside() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("source");
    let victim = dir.path().join("victim");
    fs::create_dir(&source).unwrap();
    fs::write(source.join("payload"), "taken over").unwrap();
    fs::write(&victim, "precious").unwrap();
    let image = dir.path().join("hostile.ext4");
    fs::File::create(&image).unwrap().set_len(8 << 20).unwrap();
    let visible = [dir.path().to_owned()];
    let mut mkfs = vm_tools().command("mkfs.ext4", &visible);
    mkfs.args(["-q", "-F", "-O", "^metadata_csum,^has_journal", "-d"]).arg(&source).arg(&image);
    run(&mut mkfs).unwrap();
    let script = dir.path().join("script");
    let commands = format!("symlink door {}\nlink payload dooq\nsymlink outside /\n", victim.display());
    fs::write(&script, commands).unwrap();
    let mut debugfs = vm_tools().command("debugfs", &visible);
    debugfs.arg("-w").arg("-f").arg(&script).arg(&image);
    run(&mut debugfs).unwrap();
    let mut bytes = fs::read(&image).unwrap();
    patch(&mut bytes, b"dooq", b"door");
    fs::write(&image, bytes).unwrap();
    let listed = run(vm_tools().command("debugfs", &visible).args(["-R", "ls -p /"]).arg(&image)).unwrap();
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    assert_eq!(listed.matches("/door/").count(), 2, "{listed}");
    let (checks, _) = of_root(&initrd().initrd, &[("--root", &image)]);
    is(&checks, "container-libc", "warn", &[]);
    assert_eq!(fs::read_to_string(&victim).unwrap(), "precious");
}

#[test]
fn input_that_is_not_a_root_is_an_error_with_a_remedy() {
    let dir = tempfile::tempdir().unwrap();
    let junk = dir.path().join("junk");
    fs::write(&junk, vec![7; 100_000]).unwrap();
    // A superblock's magic number, and nothing after it.
    let broken = dir.path().join("broken.erofs");
    let mut bytes = vec![0; 100_000];
    bytes[1024..1028].copy_from_slice(&[0xe2, 0xe1, 0xf5, 0xe0]);
    fs::write(&broken, bytes).unwrap();
    let missing = PathBuf::from("/nonexistent/root");
    for (root, word) in [
        (&junk, "expected ext4, EROFS or SquashFS"),
        (&broken, "fsck.erofs"),
        (&missing, "/nonexistent/root"),
    ] {
        let output = doctor(&initrd().initrd, &[], &[("--root", root)], dir.path());
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(2) && said.contains(word), "{said}");
    }
    let output = doctor(&junk, &[], &[], dir.path());
    assert_eq!(output.status.code(), Some(2));
}

/// This machine, whatever it has: the report is complete, and the exit code matches it.
#[test]
fn host_of_the_tests_is_checked() {
    let dir = tempfile::tempdir().unwrap();
    let output = doctor(&initrd().initrd, &["--json", "--guest-memory", "1024"], &[], dir.path());
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let checks = report["checks"].as_array().unwrap();
    let names: Vec<_> = checks.iter().map(|check| check["name"].as_str().unwrap()).collect();
    assert!(names.starts_with(&["image-driver", "gpu"]) && names.contains(&"huge-pages"), "{names:?}");
    assert!(names.iter().all(|name| CHECKS.iter().any(|(known, _)| known == name)));
    let failed = checks.iter().any(|check| check["verdict"] == "fail");
    assert_eq!(output.status.code(), Some(i32::from(failed)));
    assert_eq!(report["good"], !failed);
    let output = doctor(&initrd().initrd, &["--gpu", "01:00"], &[], dir.path());
    assert_eq!(output.status.code(), Some(2));
}

/// `boot` uses KVM if a test guest runs on it, and `doctor` reports the same, whatever this machine
/// has.
#[test]
fn doctor_and_boot_agree_about_kvm() {
    let dir = tempfile::tempdir().unwrap();
    let (accel, why) = choose(Choice::Auto, vm_tools(), dir.path()).unwrap();
    let output = doctor(&initrd().initrd, &["--json"], &[], dir.path());
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let checks = report["checks"].as_array().unwrap();
    let kvm = checks.iter().find(|check| check["name"] == "kvm").unwrap();
    let expected = if accel == Accel::Kvm { "pass" } else { "fail" };
    assert_eq!(kvm["verdict"], expected, "{kvm}; boot: {why}");
}

/// A driver that cannot be read here is a warning with its remedy, and the host is checked
/// nevertheless.
#[test]
fn host_check_does_not_need_the_driver_disk() {
    let dir = tempfile::tempdir().unwrap();
    let image = payload_disk().initrd;
    let output = doctor(&image, &["--json"], &[], dir.path());
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let checks = report["checks"].as_array().unwrap();
    let (first, names) = (&checks[0], checks.iter().map(|check| check["name"].as_str().unwrap()));
    let names: Vec<_> = names.collect();
    assert!(names.starts_with(&["image-driver", "gpu", "kvm"]) && names.contains(&"fabric"), "{names:?}");
    assert_eq!(first["verdict"], "warn");
    assert!(first["remedy"].as_str().unwrap().contains("--payload-disk FILE"), "{first}");
    assert_eq!(report["driver"], initrd().driver());
    assert_eq!(output.status.code(), Some(i32::from(report["good"] == false)));
    let output = doctor(&image, &[], &[], dir.path());
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("warn  image-driver: driver") && text.contains("kvm: "), "{text}");
}

fn packed(image: &Path, work: &Path) -> Packed {
    let none = |kind, _: &Path| panic!("plain files need no {kind:?}");
    take(image, work, true, &none).unwrap()
}

fn take(
    image: &Path,
    work: &Path,
    whole: bool,
    tools: &dyn Fn(ImageFileSystem, &Path) -> Result<Tools>,
) -> Result<Packed> {
    let archive = Archive::open(image).unwrap();
    let is_manifest = |entry: &host_builder::initramfs::cpio::Entry| {
        entry.text() == layout::MANIFEST.trim_start_matches('/')
    };
    let contents = archive.read(&Want { digests: false, keep: &is_manifest }).unwrap();
    let tree = contents.tree();
    let bytes = tree.paths[layout::MANIFEST.as_bytes()].item.content.as_deref().unwrap();
    let manifest = (Manifest::from_json(bytes).unwrap(), bytes);
    Packed::take(Origin { archive: &archive, tree: &tree, manifest, disk: None, whole }, work, tools)
}

/// As on a machine without erofs-utils.
#[test]
fn missing_erofs_program_fails_only_container_checks() {
    let dir = tempfile::tempdir().unwrap();
    let image = payload_image().initrd;
    let none = |kind: ImageFileSystem, _: &Path| {
        Err(Error::new(format!("no {}", kind.program())).hint("apt install erofs-utils"))
    };
    let packed = take(&image, &dir.path().join("host"), false, &none).unwrap();
    let check = packed.check();
    assert!(check.verdict == Verdict::Warn && check.found.contains("no fsck.erofs"), "{check:?}");
    assert_eq!(check.remedy, "apt install erofs-utils");
    let error = take(&image, &dir.path().join("container"), true, &none).unwrap_err();
    assert_eq!(error.to_string(), "no fsck.erofs");
}

/// Fake hosts, with the list of the real driver's module.
#[test]
fn gpu_support_is_checked_against_the_packed_driver() {
    let dir = tempfile::tempdir().unwrap();
    let packed = packed(&initrd().initrd, dir.path());
    for (id, verdict, word) in [
        ("0x2330", Verdict::Pass, "H100 80GB HBM3"),
        ("0x1eb8", Verdict::Pass, "T4"),
        ("0x27b8", Verdict::Pass, "L4"),
        ("0x1b06", Verdict::Fail, "older than Turing"),
        ("0x2901", Verdict::Fail, "pins update"),
    ] {
        let host = dir.path().join(id);
        let device = host.join("sys/bus/pci/devices/0000:01:00.0");
        fs::create_dir_all(&device).unwrap();
        for (name, text) in [("vendor", "0x10de"), ("device", id), ("class", "0x030200")] {
            fs::write(device.join(name), text).unwrap();
        }
        let asked = Asked { packed: Some(&packed), ..Asked::default() };
        let checks = check_host(&HostRoot::at(&host), &asked).unwrap();
        let check = checks.iter().find(|check| check.name == "gpu-supported").unwrap();
        assert!(check.verdict == verdict && format!("{check:?}").contains(word), "{check:?}");
    }
}

#[test]
fn altered_driver_file_is_reported() {
    let dir = tempfile::tempdir().unwrap();
    let mut variant = Variant::of(&initrd().initrd).unwrap();
    variant.file(&format!("/usr/lib/nvidia/libcuda.so.{}", initrd().driver()))[100] ^= 1;
    let image = dir.path().join("altered.img");
    variant.write(&image).unwrap();
    let root = Recipe::minbase(Suite::Trixie).directory().unwrap();
    let (checks, code) = of_root(&image, &[("--root", &root)]);
    assert_eq!(code, 1);
    is(&checks, "image-driver", "fail", &["libcuda.so", "altered", "host-builder verify"]);
}
