//! Bad input: the build refuses it with both values and a remedy, writes nothing in part, and the
//! next build succeeds.

use std::fs;

use rig::{build::default_initrd, variant::patch};

use super::sandbox::{PROGRAMS, Sandbox, refused};

#[test]
fn wrong_digest_in_the_lock_is_an_error() {
    let mut sandbox = Sandbox::new();
    let real = sandbox.artifact(PROGRAMS).sha256;
    let altered = "a".repeat(64);
    sandbox.edit_artifact(PROGRAMS, |artifact| artifact.sha256.clone_from(&altered));
    sandbox.refuses(&[], &[PROGRAMS, &altered, &real, "--update-lock"]);
    sandbox.next_build_is_good();
}

#[test]
fn wrong_size_in_the_lock_is_an_error() {
    let mut sandbox = Sandbox::new();
    let real = sandbox.artifact(PROGRAMS);
    sandbox.edit_artifact(PROGRAMS, |artifact| artifact.size = 77);
    // The package in the cache is not the one that this lock means.
    sandbox.refuses(&[], &[PROGRAMS, "77 bytes", &real.size.to_string(), "--update-lock"]);
    sandbox.next_build_is_good();
}

#[test]
fn truncated_package_in_the_cache_is_fetched_again() {
    let mut sandbox = Sandbox::new();
    let package = sandbox.artifact(PROGRAMS);
    sandbox.forget(&package);
    fs::write(sandbox.blob(&package), "!<arch>\n").unwrap();
    let output = sandbox.build(&["--dry-run", "--quiet"]);
    assert!(output.status.success(), "{output:?}");
    assert!(sandbox.archive().was_asked_for(&package.sha256));
    assert_eq!(fs::metadata(sandbox.blob(&package)).unwrap().len(), package.size);
    sandbox.next_build_is_good();
}

#[test]
fn altered_package_in_the_cache_is_refused() {
    let mut sandbox = Sandbox::new();
    let package = sandbox.artifact(PROGRAMS);
    let mut bytes = fs::read(sandbox.blob(&package)).unwrap();
    bytes[5000] ^= 1;
    sandbox.forget(&package);
    fs::write(sandbox.blob(&package), &bytes).unwrap();
    let found = host_builder::common::digest::sha256(&bytes);
    sandbox.refuses(&[], &[&package.sha256, &found, "run the command again"]);
    assert!(!sandbox.blob(&package).exists(), "the damaged package is still there");
    sandbox.next_build_is_good();
}

#[test]
fn altered_unpacked_file_in_the_cache_is_refused() {
    let sandbox = Sandbox::new();
    let package = sandbox.artifact(PROGRAMS);
    let tree = sandbox.path("cache/trees").join(&package.sha256);
    let original = fs::read_link(&tree).unwrap();
    fs::remove_file(&tree).unwrap();
    let copied = std::process::Command::new("cp").arg("-a").arg(original).arg(&tree).status().unwrap();
    assert!(copied.success());
    let mut files = walkdir::WalkDir::new(&tree).into_iter().map(Result::unwrap);
    let file = files.find(|entry| entry.path().ends_with("usr/bin/nvidia-smi"));
    let file = file.unwrap().into_path();
    let mut bytes = fs::read(&file).unwrap();
    bytes[5000] ^= 1;
    fs::write(&file, &bytes).unwrap();
    sandbox.refuses(
        &[],
        &["/usr/bin/nvidia-smi", &host_builder::common::digest::sha256(&bytes), "remove the cache"],
    );
}

#[test]
fn withdrawn_package_version_is_an_error() {
    let mut sandbox = Sandbox::new();
    let package = sandbox.artifact(PROGRAMS);
    sandbox.forget(&package);
    let mut offered = Sandbox::offered();
    let newer = &mut offered.iter_mut().find(|(artifact, _)| artifact.name == package.name).unwrap().0;
    newer.version = "999.1-1".into();
    sandbox.archive().offer(&offered);
    sandbox.refuses(&[], &[PROGRAMS, &package.version, "--update-lock"]);
    offered.retain(|(artifact, _)| artifact.name != package.name);
    sandbox.archive().offer(&offered);
    sandbox.refuses(&[], &[PROGRAMS, "--update-lock"]);
    sandbox.next_build_is_good();
}

#[test]
fn missing_network_is_an_error() {
    let mut sandbox = Sandbox::new();
    let package = sandbox.artifact(PROGRAMS);
    sandbox.forget(&package);
    let uri = sandbox.archive().uri();
    // Nothing listens on the discard port.
    sandbox.edit_profile(&uri, "http://127.0.0.1:9");
    sandbox.refuses(&[], &["127.0.0.1:9", "check the network"]);
    sandbox.next_build_is_good();
}

#[test]
fn missing_module_of_the_profile_is_an_error() {
    let mut sandbox = Sandbox::new();
    sandbox.edit_profile("\"virtio_blk\", ", "\"virtio_blk\", \"no-such-disk\", ");
    sandbox.refuses(&[], &[default_initrd().release(), "no module no-such-disk", "choose another kernel"]);
    sandbox.next_build_is_good();
}

/// The GPU's modules in the cache that say so are changed in one place, the length kept. Others may
/// have been built for another kernel or driver.
fn with_modules_that_say(from: &str, to: &str, texts: &[&str]) {
    let mut sandbox = Sandbox::new();
    let modules = sandbox.own_modules();
    let module = walkdir::WalkDir::new(modules).into_iter().map(Result::unwrap);
    let mut changed = 0;
    for module in module.filter(|entry| entry.file_name() == "nvidia.ko") {
        let mut bytes = fs::read(module.path()).unwrap();
        if memchr::memmem::find(&bytes, from.as_bytes()).is_some() {
            patch(&mut bytes, from.as_bytes(), to.as_bytes());
            fs::write(module.path(), bytes).unwrap();
            changed += 1;
        }
    }
    assert!(changed > 0, "no module in the cache says {from:?}");
    sandbox.refuses(&[], texts);
    fs::remove_dir_all(sandbox.path("cache/modules")).unwrap();
    std::os::unix::fs::symlink(
        rig::build::cache().unwrap().room("modules").unwrap(),
        sandbox.path("cache/modules"),
    )
    .unwrap();
    sandbox.next_build_is_good();
}

#[test]
fn modules_of_another_kernel_are_refused() {
    let release = default_initrd().release();
    let other = format!("9{}", &release[1..]);
    with_modules_that_say(
        &format!("\0vermagic={release} "),
        &format!("\0vermagic={other} "),
        &["nvidia", release, &other, "--update-lock"],
    );
}

#[test]
fn modules_of_another_driver_are_refused() {
    let driver = default_initrd().driver();
    let other = format!("9{}", &driver[1..]);
    with_modules_that_say(
        &format!("\0version={driver}\0"),
        &format!("\0version={other}\0"),
        &["nvidia", driver, &other, "exactly the same version"],
    );
}

#[test]
fn modules_that_request_other_firmware_are_refused() {
    let driver = default_initrd().driver();
    let other = format!("9{}", &driver[1..]);
    with_modules_that_say(
        &format!("\0firmware=nvidia/{driver}/gsp_ga10x.bin\0"),
        &format!("\0firmware=nvidia/{other}/gsp_ga10x.bin\0"),
        &[&format!("nvidia/{other}/gsp_ga10x.bin"), &format!("nvidia/{driver}/"), "the same driver version"],
    );
}

#[test]
fn lock_of_another_driver_is_refused() {
    let mut sandbox = Sandbox::new();
    sandbox.edit_lock(|lock| lock.driver = "580.1".into());
    sandbox.refuses(&[], &["580.1,", default_initrd().driver(), "--update-lock"]);
    sandbox.next_build_is_good();
}

#[test]
fn lock_of_a_changed_profile_is_refused() {
    let mut sandbox = Sandbox::new();
    sandbox.edit_lock(|lock| lock.profile_sha256 = "b".repeat(64));
    sandbox.refuses(&[], &["bbbbbbbbbbbb", "debian-13", "--update-lock"]);
    sandbox.next_build_is_good();
}

#[test]
fn capability_without_packages_is_refused() {
    let mut sandbox = Sandbox::new();
    sandbox.edit_profile(
        "[userspace.ngx]\npackages = [\"libnvidia-common-580-server\", \"libnvidia-gl-580-server\"]\n",
        "",
    );
    sandbox.refuses(
        &["--capabilities", "compute,ngx"],
        &["ngx", "compute, display, graphics", "[userspace.ngx]"],
    );
    sandbox.next_build_is_good();
}

#[test]
fn lock_of_an_older_format_is_refused() {
    let mut sandbox = Sandbox::new();
    let lock = sandbox.path("initrd.lock");
    let text = fs::read_to_string(&lock).unwrap();
    fs::write(
        &lock,
        text.replace("format = 3", "format = 1").replace("\"userspace-compute\"", "\"userspace\""),
    )
    .unwrap();
    sandbox.refuses(&[], &["initrd.lock has lock format 1 (expected 3)", "--update-lock"]);
    sandbox.next_build_is_good();
}

#[test]
fn file_that_is_not_a_lock_is_refused() {
    let mut sandbox = Sandbox::new();
    for text in ["", "format = 3\n", "not toml", "format = 99\n"] {
        fs::write(sandbox.path("initrd.lock"), text).unwrap();
        sandbox.refuses(&[], &["initrd.lock", "--update-lock"]);
        assert_eq!(fs::read_to_string(sandbox.path("initrd.lock")).unwrap(), text, "the lock was changed");
    }
    sandbox.next_build_is_good();
}

#[test]
fn impossible_options_are_refused() {
    let sandbox = Sandbox::new();
    for (arguments, texts) in [
        (&["--capabilities", "compute,foo"][..], &["\"foo\"", "known: all, compat32, compute, display"][..]),
        (&["--capabilities", ""], &["known: all, compat32"]),
        (&["--capabilities", "compat32"], &["compat32 alone", "--capabilities compute,utility,compat32"]),
        (&["--output", "x", "--kernel-output", "x"], &["--output and --kernel-output are both x"]),
        (&["--output", "x", "--kernel-output", "./x"], &["--output and --kernel-output", "its own file"]),
        (&["--output", "initrd.lock"], &["--output and --lock are both initrd.lock"]),
        (&["--output", "."], &["--output", "found a directory"]),
        (&["--lock", "/"], &["--lock", "found a directory"]),
    ] {
        sandbox.refuses(arguments, texts);
    }
    for (profile, texts) in
        [("no-such", &["\"no-such\"", "debian-13"][..]), ("./no-such.toml", &["no-such.toml"])]
    {
        let mut command = std::process::Command::new(rig::build::program());
        sandbox.prepare(command.args(["build-initrd", "--profile", profile]));
        refused(&command.output().unwrap(), texts);
    }
    // The parser of the command line refuses these, with its own messages.
    for (arguments, text) in [
        (["--compression", "lzo"], "zstd, zstd:LEVEL, lz4, gzip, xz or none"),
        (["--compression", "zstd:20"], "1 to 19"),
        (["--no-such", "x"], "--no-such"),
    ] {
        let output = sandbox.build(&arguments);
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        assert!(String::from_utf8_lossy(&output.stderr).contains(text), "{output:?}");
    }
    assert!(sandbox.outputs().is_empty() && !sandbox.path("x").exists());
    sandbox.nothing_is_half_made();
}

#[test]
fn unwritable_output_is_an_error() {
    let mut sandbox = Sandbox::new();
    fs::write(sandbox.path("file"), "").unwrap();
    sandbox.refuses(&["--output", "file/initrd.img"], &["file", "what to do"]);
    sandbox.refuses(&["--output", "/proc/gpu-initrd/initrd.img"], &["/proc/gpu-initrd", "what to do"]);
    sandbox.next_build_is_good();
}
