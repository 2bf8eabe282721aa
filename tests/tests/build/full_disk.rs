//! A full disk: the error names the place and the remedy, and nothing is written in part. The disk
//! is a small tmpfs in a namespace.

use std::{fs, process::Command};

use super::sandbox::{LIBRARIES, Sandbox, refused};

/// Mounts a tmpfs of size `$1` on `$2`, runs the rest, and fails when that leaves a temporary file
/// there.
const FULL: &str = r#"set -eu
size=$1 place=$2; shift 2
mkdir -p "$place"; mount -t tmpfs -o "size=$size" full "$place"
code=0; "$@" || code=$?
left=$(find "$place" -name '.partial-*' -o -name '.gpu-initrd-*' -o -name '*.img')
[ -z "$left" ] || { echo "left behind: $left" >&2; exit 99; }
exit $code"#;

fn with_little_space(sandbox: &Sandbox, place: &str, size: &str, texts: &[&str]) {
    let mut command = Command::new("unshare");
    command
        .args(["--map-root-user", "--mount", "--", "sh", "-c", FULL, "full", size])
        .arg(sandbox.path(place));
    command.arg(rig::build::program()).args(["build-initrd", "--profile", "./profile.toml"]);
    command.args(["--payload", "files"]);
    sandbox.prepare(&mut command);
    refused(&command.arg("--quiet").output().unwrap(), texts);
    assert!(sandbox.outputs().is_empty(), "{:?}", sandbox.outputs());
    sandbox.nothing_is_half_made();
}

#[test]
fn full_output_disk_is_an_error_and_leaves_no_initrd() {
    let mut sandbox = Sandbox::new();
    with_little_space(&sandbox, "out", "4m", &["writing", "No space left", "free some space", "--output"]);
    sandbox.next_build_is_good();
}

#[test]
fn full_cache_disk_while_unpacking_is_an_error() {
    let mut sandbox = Sandbox::new();
    fs::remove_dir_all(sandbox.path("cache/trees")).unwrap();
    let texts =
        ["cache/trees", "unpacks to more", "half of the space", "free some space", "GPU_INITRD_CACHE"];
    with_little_space(&sandbox, "cache/trees", "4m", &texts);
    sandbox.next_build_is_good();
}

#[test]
fn full_cache_disk_while_downloading_is_an_error() {
    let mut sandbox = Sandbox::new();
    sandbox.forget(&sandbox.artifact(LIBRARIES));
    let texts = ["downloading", "No space left", "free some space", "GPU_INITRD_CACHE"];
    with_little_space(&sandbox, "cache/work", "1m", &texts);
    sandbox.next_build_is_good();
}
