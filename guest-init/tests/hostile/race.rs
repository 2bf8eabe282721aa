//! A root that changes while it is worked on, as one shared by virtiofs may.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use guest_init::driver_files;
use guest_init::driver_files::{ContainerRequest, Inventory};
use image::capability::Capability;
use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};

use crate::elf::library;
use crate::scene::{CANARY, Scene, VERSION, Watch, lib, open};

/// A race runs until the other thread has made this number of changes, however long that takes.
const CHANGES: u64 = 200;
/// Longest wait for that; a busy machine needs a small part of it.
const PATIENCE: Duration = Duration::from_mins(5);

/// Does `work` over and over while another thread does `change`, until there have been enough changes, and one success. The pauses between
/// changes also leave time for a step, for several, for a whole run.
fn race(case: &str, change: impl Fn(u64) + Sync, work: impl Fn() -> bool) {
    let (changes, stop) = (AtomicU64::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let count = changes.fetch_add(1, Ordering::Relaxed);
                change(count);
                let pause = [0, 20, 100, 700, 3000, 20_000][usize::try_from(count % 6).unwrap()];
                std::thread::sleep(Duration::from_micros(pause));
            }
        });
        // Also where the work panics: else the scope would wait for the other thread forever.
        let _stop = StopAtEnd(&stop);
        let begin = Instant::now();
        let (mut runs, mut done) = (0, 0);
        while done == 0 || changes.load(Ordering::Relaxed) < CHANGES {
            runs += 1;
            done += usize::from(work());
            let raced = changes.load(Ordering::Relaxed);
            assert!(begin.elapsed() < PATIENCE, "{case}: {raced} changes, {done} of {runs} runs succeeded");
        }
    });
}

struct StopAtEnd<'a>(&'a AtomicBool);

impl Drop for StopAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Swaps the directory `path` of the root with a link to its twin outside while `work` runs, over and over.
fn while_swapping(path: &str, work: fn(&Scene) -> bool) {
    let scene = Scene::new();
    for file in ["libcuda.so.1", "ld.so.conf", "record.json", "libc.so.6"] {
        scene.write(&format!("outside/{path}/{file}"), CANARY.as_bytes());
    }
    fs::create_dir_all(scene.root(path)).unwrap();
    let (at, other) = (scene.root(path), scene.root("swapped"));
    symlink(scene.outside(path), &other).unwrap();
    let watch = Watch::new(&scene.outside(""));
    let case = format!("{path} swapped with a link");
    race(&case, |_| swap(&at, &other), || work(&scene));
    watch.assert_quiet(&case);
}

fn swap(one: &Path, other: &Path) {
    renameat2(AT_FDCWD, one, AT_FDCWD, other, RenameFlags::RENAME_EXCHANGE).unwrap();
}

/// What a container gets that asks for nothing.
fn request() -> ContainerRequest {
    ContainerRequest { capabilities: Capability::DEFAULT.into(), ..ContainerRequest::default() }
}

/// Copies from scratch; it may fail, since what it needs is gone half of the time.
fn copy(scene: &Scene) -> bool {
    let (root, driver) = (open(&scene.root("")), open(&scene.dir.path().join("driver")));
    for path in ["var/lib/gpu-initrd/record.json", &lib(&format!("libcuda.so.{VERSION}"))] {
        let _ = root.remove_file(path.as_ref());
    }
    let inventory = Inventory::of_directory(&driver).unwrap();
    let request = request();
    let Ok(mut report) = driver_files::copy::copy(&root, &driver, &inventory, &request) else { return false };
    driver_files::complete(&root, &request, &mut report).is_ok()
}

#[test]
fn a_directory_swapped_for_a_link_is_never_followed_out() {
    for path in ["usr/lib", &lib(""), "usr/bin", "etc", "etc/ld.so.conf.d", "var/lib", "var/lib/gpu-initrd"] {
        while_swapping(path.trim_end_matches('/'), copy);
    }
}

#[test]
fn a_layer_is_built_from_nothing_outside() {
    let build = |scene: &Scene| {
        let layer = scene.dir.path().join("layer");
        fs::remove_dir_all(&layer).unwrap();
        fs::create_dir(&layer).unwrap();
        let (root, driver) = (open(&scene.root("")), open(&scene.dir.path().join("driver")));
        let inventory = Inventory::of_directory(&driver).unwrap();
        driver_files::layer::layer(
            &root,
            &driver,
            &inventory,
            &request(),
            driver_files::layer::LayerPlace::Links(&layer),
            None,
        )
        .is_ok()
    };
    while_swapping("usr/lib", build);
}

/// A library that grows, shrinks and changes while it is read.
#[test]
fn a_library_that_changes_while_it_is_read_is_no_harm() {
    let scene = Scene::new();
    let path = scene.root(&lib("libcuda.so.1.0"));
    let whole = library("libcuda.so.1");
    let write = |count: u64| {
        let len = usize::try_from(count * 13).unwrap() % whole.len();
        fs::write(&path, &whole[..len]).unwrap();
    };
    race("a library that changes", write, || copy(&scene));
}
