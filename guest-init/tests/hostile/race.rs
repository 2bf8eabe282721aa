//! A root that changes while it is worked on, as one shared by virtiofs may.

use std::fs;
use std::os::unix::fs::symlink;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use guest_init::inject::{self, Inventory, Request};
use image::capability::Capability;
use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};

use crate::elf::library;
use crate::scene::{CANARY, DEADLINE, Scene, VERSION, Watch, in_time, lib, open};

const RUNS: usize = 200;

/// Swaps the directory `path` of the root with a link to its twin outside while `work` runs, over and over.
fn while_swapping(path: &str, work: fn(&Scene) -> bool) {
    let scene = Arc::new(Scene::new());
    for file in ["libcuda.so.1", "ld.so.conf", "record.json", "libc.so.6"] {
        scene.write(&format!("outside/{path}/{file}"), CANARY.as_bytes());
    }
    fs::create_dir_all(scene.root(path)).unwrap();
    let (at, other) = (scene.root(path), scene.root("swapped"));
    symlink(scene.outside(path), &other).unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let watch = Watch::new(&scene.outside(""));
    let swapper = std::thread::spawn({
        let stop = Arc::clone(&stop);
        move || {
            let mut swaps = 0_u64;
            while !stop.load(Ordering::Relaxed) {
                renameat2(AT_FDCWD, &at, AT_FDCWD, &other, RenameFlags::RENAME_EXCHANGE).unwrap();
                swaps += 1;
                // Also time enough for a step, for several, for a whole run.
                let pause = [0, 20, 100, 700, 3000, 20_000][usize::try_from(swaps % 6).unwrap()];
                std::thread::sleep(std::time::Duration::from_micros(pause));
            }
            swaps
        }
    });
    let (case, shared) = (format!("{path} swapped with a link"), Arc::clone(&scene));
    let done: usize = in_time(&case, move || {
        let begin = std::time::Instant::now();
        // Where the disk is slow, fewer runs have to do.
        (0..RUNS).take_while(|_| begin.elapsed() < DEADLINE / 4).filter(|_| work(&shared)).count()
    });
    stop.store(true, Ordering::Relaxed);
    let swaps = swapper.join().unwrap();
    watch.assert_quiet(&case);
    assert!(done > 0, "{case}: none of {RUNS} runs succeeded");
    assert!(swaps > 20, "{swaps} swaps");
    eprintln!("{case}: {swaps} swaps, {done} of {RUNS} runs succeeded");
}

/// What a container gets that asks for nothing.
fn request() -> Request {
    Request { capabilities: Capability::DEFAULT.into(), ..Request::default() }
}

/// Copies from scratch; it may fail, since what it needs is gone half of the time.
fn copy(scene: &Scene) -> bool {
    let (root, driver) = (open(&scene.root("")), open(&scene.dir.path().join("driver")));
    for path in ["var/lib/gpu-initrd/record.json", &lib(&format!("libcuda.so.{VERSION}"))] {
        let _ = root.remove_file(path.as_ref());
    }
    let inventory = Inventory::of_directory(&driver).unwrap();
    let request = request();
    let Ok(mut report) = inject::copy::copy(&root, &driver, &inventory, &request) else { return false };
    inject::complete(&root, &request, &mut report).is_ok()
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
        inject::layer::layer(
            &root,
            &driver,
            &inventory,
            &request(),
            inject::layer::Place::Links(&layer),
            None,
        )
        .is_ok()
    };
    while_swapping("usr/lib", build);
}

/// A library that grows, shrinks and changes while it is read.
#[test]
fn a_library_that_changes_while_it_is_read_is_no_harm() {
    let scene = Arc::new(Scene::new());
    let path = scene.root(&lib("libcuda.so.1.0"));
    let stop = Arc::new(AtomicBool::new(false));
    let writer = std::thread::spawn({
        let stop = Arc::clone(&stop);
        move || {
            let whole = library("libcuda.so.1");
            for len in (0..=whole.len()).cycle().step_by(13) {
                fs::write(&path, &whole[..len]).unwrap();
                if stop.load(Ordering::Relaxed) {
                    return;
                }
            }
        }
    });
    let shared = Arc::clone(&scene);
    in_time("a library that changes", move || {
        let begin = std::time::Instant::now();
        (0..RUNS).take_while(|_| begin.elapsed() < DEADLINE / 4).filter(|_| copy(&shared)).count()
    });
    stop.store(true, Ordering::Relaxed);
    writer.join().unwrap();
}
