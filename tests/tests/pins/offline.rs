//! A mirror directory, with the network gone.

use std::{fs, process::Command};

use host_builder::common::digest::{sha256, sha256_file};
use rig::process::run;

use super::place::Place;

/// The same command in a network of its own, which has nothing.
fn without_network(command: &Command, place: &Place) -> Command {
    let mut alone = Command::new("unshare");
    if !nix::unistd::geteuid().is_root() {
        alone.args(["--user", "--map-root-user"]);
    }
    alone.args(["--net", "--"]).arg(command.get_program()).args(command.get_args());
    place.prepare(&mut alone);
    alone
}

#[test]
fn vendored_lock_builds_without_a_network() {
    let place = Place::new();
    place.good(&["build-initrd", "--quiet"]);
    let first = sha256_file(&place.path("out/initrd.img")).unwrap();
    let (out, _) = place.good(&["pins", "vendor", "mirror"]);
    assert!(
        out.contains("4 artifacts") && out.contains("4 of them new") && out.contains("--mirror mirror"),
        "{out}"
    );
    let (out, _) = place.good(&["pins", "vendor", "mirror"]);
    assert!(out.contains("0 of them new"), "{out}");
    let mut check = Command::new("sha256sum");
    run(check.args(["--check", "--quiet", "SHA256SUMS"]).current_dir(place.path("mirror"))).unwrap();
    let index = fs::read_to_string(place.path("mirror/ch-6.12.8-kernel-2-20251211.txt")).unwrap();
    assert!(index.contains("nvidia-installer") && index.contains("/nvidia/XFree86/"), "{index}");

    let requests = place.server.requests().len();
    fs::remove_dir_all(place.path("cache")).unwrap();
    let build = ["build-initrd", "--offline", "--mirror", "mirror", "--output", "offline.img", "--quiet"];
    let output = without_network(&place.command(&build), &place).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(sha256_file(&place.path("offline.img")).unwrap(), first);
    assert_eq!(place.server.requests().len(), requests, "the server was asked");
    let verify = ["pins", "verify", "--offline", "--mirror", "mirror"];
    assert!(without_network(&place.command(&verify), &place).status().unwrap().success());
}

#[test]
fn artifact_in_neither_cache_nor_mirror_is_named() {
    let place = Place::new();
    place.refuses(&["pins", "resolve", "--offline"], &["--offline forbids it"]);
    place.good(&["pins", "resolve", "--quiet"]);
    fs::remove_dir_all(place.path("cache")).unwrap();
    let requests = place.server.requests().len();
    place.refuses(
        &["build-initrd", "--offline"],
        &["the cache lacks", "vmlinux", "nvidia-installer", "pins vendor"],
    );
    assert_eq!(place.server.requests().len(), requests, "the server was asked");

    place.good(&["pins", "vendor", "mirror", "--quiet"]);
    let damaged = place.path("mirror/sha256").join(place.artifact("vmlinux").sha256);
    fs::write(&damaged, "other").unwrap();
    fs::remove_dir_all(place.path("cache")).unwrap();
    let build = ["build-initrd", "--offline", "--mirror", "mirror"];
    place.refuses(&build, &[&place.artifact("vmlinux").sha256, &sha256(b"other"), "fill the mirror again"]);
    fs::remove_file(&damaged).unwrap();
    place.refuses(&build, &["the cache and mirror lacks vmlinux"]);
    place.good(&["pins", "vendor", "mirror", "--quiet"]);
    place.good(&["build-initrd", "--offline", "--mirror", "mirror", "--dry-run"]);
}
