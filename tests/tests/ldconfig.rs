//! The loader cache compared with the `ldconfig` of whole distributions, from glibc 2.31 on: of
//! their roots, with and without the driver's files, and of random roots. The caches are equal byte
//! for byte, and so are the links.

use std::{
    fs,
    ops::RangeInclusive,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
    sync::LazyLock,
};

use guest_init::confined_fs::RootDir;
use guest_init::ldcache;
use guest_init::ldcache::{CACHE, Platform};
use rig::{
    build::initrd,
    process::run,
    roots::{Recipe, Suite},
};

use crate::oracle::{
    self, Glibc,
    random::{Pool, compare_roots},
};

static POOL: LazyLock<Pool> = LazyLock::new(Pool::new);

/// A copy of the root that may be changed.
fn scratch(suite: Suite, directory: &Path) -> PathBuf {
    let root = directory.join("root");
    run(Command::new("cp").arg("-a").arg(Recipe::minbase(suite).directory().unwrap()).arg(&root)).unwrap();
    root
}

/// The driver's files as the guest has them.
fn driver(directory: &Path) -> PathBuf {
    let place = directory.join("driver");
    fs::create_dir(&place).unwrap();
    let unpack = "zstd -dcq \"$1\" | cpio --extract --quiet --make-directories --no-preserve-owner 'usr/lib/nvidia/*' 'usr/bin/*' \
                  'usr/share/gpu-initrd/*'";
    let mut shell = Command::new("sh");
    run(shell.current_dir(&place).args(["-c", unpack, "sh"]).arg(&initrd().initrd)).unwrap();
    place
}

fn without_driver(suite: Suite, glibc: (u32, u32)) {
    let directory = tempfile::tempdir().unwrap();
    let root = scratch(suite, directory.path());
    let platform = Platform::detect(&RootDir::open(&root).unwrap()).unwrap();
    let triplet = ldcache::Machine::NATIVE.triplet();
    assert_eq!(platform.lib_dir, Path::new("/usr/lib").join(triplet));
    assert_eq!(platform.loader_dirs[0], Path::new("/lib").join(triplet));
    assert!(platform.loader.is_some() && platform.cache == Path::new(CACHE), "{platform:?}");
    assert!(
        platform.glibc >= Some(glibc) && (suite == Suite::Testing || platform.glibc == Some(glibc)),
        "{platform:?}"
    );
    oracle::compare(&root);
}

fn with_driver(suite: Suite) {
    let directory = tempfile::tempdir().unwrap();
    let path = scratch(suite, directory.path());
    let program = directory.path().join("guest-init");
    fs::write(&program, host_builder::GUEST_INIT).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let mut inject = Command::new(&program);
    run(inject.args(["inject", "--root"]).arg(&path).arg("--driver").arg(driver(directory.path()))).unwrap();
    // What the guest wrote is what `ldconfig` would have written, and has the driver.
    let written = fs::read(path.join(CACHE.trim_start_matches('/'))).unwrap();
    let root = RootDir::open(&path).unwrap();
    assert!(written == ldcache::build(&root).unwrap().bytes, "the cache changed after it was written");
    let entries = ldcache::read(&written).unwrap().entries;
    for soname in ["libcuda.so.1", "libnvidia-ml.so.1"] {
        assert!(entries.iter().any(|entry| entry.key == soname.as_bytes()), "no {soname} in the cache");
    }
    oracle::compare(&path);
}

fn random(suite: Suite, seeds: RangeInclusive<u64>) {
    let root = Recipe::minbase(suite).directory().unwrap();
    compare_roots(seeds, &Glibc::of(&root), &POOL);
}

#[test]
fn debian_11() {
    without_driver(Suite::Bullseye, (2, 31));
}

#[test]
fn debian_12() {
    without_driver(Suite::Bookworm, (2, 36));
}

#[test]
fn debian_13() {
    without_driver(Suite::Trixie, (2, 41));
}

#[test]
fn debian_testing() {
    without_driver(Suite::Testing, (2, 41));
}

#[test]
fn debian_11_with_the_driver() {
    with_driver(Suite::Bullseye);
}

#[test]
fn debian_12_with_the_driver() {
    with_driver(Suite::Bookworm);
}

#[test]
fn debian_13_with_the_driver() {
    with_driver(Suite::Trixie);
}

#[test]
fn debian_testing_with_the_driver() {
    with_driver(Suite::Testing);
}

#[test]
fn random_roots_with_debian_11() {
    random(Suite::Bullseye, 1001..=1040);
}

#[test]
fn random_roots_with_debian_12() {
    random(Suite::Bookworm, 2001..=2040);
}

#[test]
fn random_roots_with_debian_13() {
    random(Suite::Trixie, 3001..=3040);
}

#[test]
fn random_roots_with_debian_testing() {
    random(Suite::Testing, 4001..=4040);
}
