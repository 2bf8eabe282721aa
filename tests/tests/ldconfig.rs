//! The loader cache of whole distributions, with and without the driver's files, against their own `ldconfig`: entry for entry, byte for
//! byte, and no link that it would have made otherwise.

#![allow(clippy::unwrap_used, reason = "a test ends where its ground is missing")]

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use guest_init::{
    inject,
    ldcache::{self, CACHE},
    rootfs::RootDir,
};
use rig::{
    build::initrd,
    process::run,
    roots::{Recipe, Suite},
};

#[path = "../../guest-init/tests/oracle/mod.rs"]
mod oracle;

/// A copy of the root that may be changed.
fn scratch(suite: Suite, directory: &Path) -> PathBuf {
    let root = directory.join("root");
    run(Command::new("cp").arg("-a").arg(Recipe::minbase(suite).directory().unwrap()).arg(&root)).unwrap();
    root
}

/// The driver's files as the guest has them.
fn driver(directory: &Path) -> PathBuf {
    let place = directory.join("driver");
    std::fs::create_dir(&place).unwrap();
    let unpack = "zstd -dcq \"$1\" | cpio --extract --quiet --make-directories --no-preserve-owner 'usr/lib/nvidia/*' 'usr/bin/*'";
    let mut shell = Command::new("sh");
    run(shell.current_dir(&place).args(["-c", unpack, "sh"]).arg(&initrd().initrd)).unwrap();
    place
}

fn without_driver(suite: Suite) {
    let directory = tempfile::tempdir().unwrap();
    oracle::compare(&scratch(suite, directory.path()));
}

fn with_driver(suite: Suite) {
    let directory = tempfile::tempdir().unwrap();
    let path = scratch(suite, directory.path());
    let root = RootDir::open(&path).unwrap();
    let driver = RootDir::open(&driver(directory.path())).unwrap();
    let mut report = inject::copy::copy(&root, &driver).unwrap();
    inject::complete(&root, None, &mut report).unwrap();
    oracle::compare(&path);
    // What the guest wrote is what `ldconfig` would have written, and has the driver.
    let written = std::fs::read(path.join(CACHE.trim_start_matches('/'))).unwrap();
    assert!(written == ldcache::build(&root).unwrap().bytes, "the cache changed after it was written");
    let theirs = oracle::ask(&path);
    let entries = ldcache::read(&theirs).unwrap().entries;
    for soname in ["libcuda.so.1", "libnvidia-ml.so.1"] {
        assert!(entries.iter().any(|entry| entry.key == soname.as_bytes()), "no {soname} in the cache");
    }
}

#[test]
fn debian_12() {
    without_driver(Suite::Bookworm);
}

#[test]
fn debian_13() {
    without_driver(Suite::Trixie);
}

#[test]
fn debian_12_with_the_driver() {
    with_driver(Suite::Bookworm);
}

#[test]
fn debian_13_with_the_driver() {
    with_driver(Suite::Trixie);
}
