//! `doctor` on a machine whose own programs are too old for the image, as Debian 12's are: those of
//! the lock are used.

use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::Path,
    process::{Command, Output},
};

use host_builder::pins::lock::{Lock, Set};
use rig::{
    build::{Built, cache, initrd_with, program},
    roots::{Recipe, Suite},
};
use serde_json::Value;

fn payload_image() -> Built {
    initrd_with(&[])
}

/// What a Debian 12 machine has: its `fsck.erofs` reports its features and does nothing else.
const OLD_FSCK: &str = r"#!/bin/sh
case $1 in
    -V) echo fsck.erofs 1.5 ;;
    --help) echo Supported algorithms are: lz4hc, lz4 ;;
    *) echo '<E> erofs: unknown compression format 3 for nid 1'; exit 1 ;;
esac
";

/// Runs `doctor` as on Debian 12, whatever this machine has, with an empty cache.
fn doctor_on_debian_12(dir: &Path, args: &[&str], paths: &[(&str, &Path)]) -> Output {
    let (old, cache) = (dir.join("old"), dir.join("cache"));
    fs::create_dir_all(&old).unwrap();
    fs::write(old.join("fsck.erofs"), OLD_FSCK).unwrap();
    fs::set_permissions(old.join("fsck.erofs"), fs::Permissions::from_mode(0o755)).unwrap();
    let script = "mount -t overlay -o lowerdir=$1:/usr/bin overlay /usr/bin; shift; exec \"$@\"";
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "--mount", "--", "sh", "-euc", script, "as-debian-12"]);
    command.arg(&old).arg(program()).arg("doctor").arg(payload_image().initrd).args(args);
    for (option, path) in paths {
        command.arg(option).arg(path);
    }
    command.env("GPU_INITRD_CACHE", cache).current_dir(dir).output().unwrap()
}

/// The driver's image is zstd, which the machine's own program cannot read: the lock's packages are
/// used, here from a mirror.
#[test]
fn zstd_payload_is_read_with_programs_of_the_lock() {
    let dir = tempfile::tempdir().unwrap();
    let (root, mirror) = (Recipe::minbase(Suite::Trixie).directory().unwrap(), dir.path().join("mirror"));
    let built = payload_image();
    let lock = Lock::read(&built.lock).unwrap().unwrap();
    fs::create_dir_all(mirror.join("sha256")).unwrap();
    for package in lock.set(Set::Payload) {
        let blob = cache().unwrap().verified_blob(&package.sha256).unwrap();
        symlink(blob, mirror.join("sha256").join(&package.sha256)).unwrap();
    }
    let paths = [("--root", root.as_path()), ("--lock", &built.lock), ("--mirror", &mirror)];
    let output = doctor_on_debian_12(dir.path(), &["--json", "--offline"], &paths);
    let said = String::from_utf8_lossy(&output.stderr);
    let report: Value =
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {said}"));
    assert_eq!((&report["good"], output.status.code()), (&Value::Bool(true), Some(0)), "{report}");
    let made = fs::read_dir(dir.path().join("cache/toolroots")).unwrap().count();
    assert_eq!(made, 1);
}

/// Without a lock, or without its packages, the error names the program, its version and what it
/// lacks.
#[test]
fn too_old_program_is_named_with_version_and_remedy() {
    let dir = tempfile::tempdir().unwrap();
    let (root, built) = (Recipe::minbase(Suite::Trixie).directory().unwrap(), payload_image());
    let lacks =
        ["compressed with zstd", "fsck.erofs 1.5", "erofs-utils has it since 1.8", "--lock FILE"].as_slice();
    let output = doctor_on_debian_12(dir.path(), &[], &[("--root", &root)]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{said}");
    lacks
        .iter()
        .chain(&["initrd.lock: no such lock"])
        .for_each(|word| assert!(said.contains(word), "{said}"));
    let paths = [("--root", root.as_path()), ("--lock", &built.lock)];
    let output = doctor_on_debian_12(dir.path(), &["--offline"], &paths);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{said}");
    lacks
        .iter()
        .chain(&["the cache lacks erofs-utils"])
        .for_each(|word| assert!(said.contains(word), "{said}"));
}
