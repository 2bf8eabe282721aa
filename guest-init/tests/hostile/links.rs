//! Links and other things that are no files, in every place that guest-init looks at or writes to.

use std::fs;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::Path;

use nix::sys::stat::{Mode, SFlag, mknod};

use crate::scene::{CANARY, Scene, VERSION, Watch, leaked, lib};

/// What may stand in such a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Thing {
    Absolute,
    Climb,
    ProcRoot,
    ProcFd,
    Pid1,
    Itself,
    Pair,
    LongChain,
    Nowhere,
    Fifo,
    Socket,
    Directory,
    Endless,
}

const LEADING_OUT: [Thing; 6] =
    [Thing::Absolute, Thing::Climb, Thing::ProcRoot, Thing::ProcFd, Thing::Pid1, Thing::LongChain];
const LEADING_NOWHERE: [Thing; 3] = [Thing::Itself, Thing::Pair, Thing::Nowhere];
const NO_FILE: [Thing; 4] = [Thing::Fifo, Thing::Socket, Thing::Directory, Thing::Endless];

/// Every place that is read or written, and whether it is a directory.
fn places() -> Vec<(String, bool)> {
    let fixed: [(&str, bool); 15] = [
        ("usr", true),
        ("usr/lib", true),
        ("usr/bin", true),
        ("etc", true),
        ("etc/ld.so.conf.d", true),
        ("var/lib/gpu-initrd", true),
        ("usr/local/cuda/compat", true),
        ("etc/ld.so.cache", false),
        ("etc/ld.so.conf", false),
        ("etc/ld.so.conf.d/00-gpu-initrd.conf", false),
        ("etc/.gpu-initrd-ld.so.cache", false),
        ("var/lib/gpu-initrd/record.json", false),
        ("var/lib/gpu-initrd/.gpu-initrd-record.json", false),
        ("usr/bin/nvidia-smi", false),
        ("usr/bin/.gpu-initrd-nvidia-smi", false),
    ];
    let versioned = [
        "libcuda.so.1".into(),
        "libcuda.so".into(),
        format!("libcuda.so.{VERSION}"),
        format!("libnvidia-ml.so.{VERSION}"),
        format!(".gpu-initrd-libcuda.so.{VERSION}"),
        ".gpu-initrd-libcuda.so.1".into(),
        "libc.so.6".into(),
    ];
    let mut places: Vec<_> = fixed.iter().map(|(path, dir)| ((*path).to_owned(), *dir)).collect();
    places.push((lib("").trim_end_matches('/').into(), true));
    places.push((lib("glibc-hwcaps/x86-64-v3"), true));
    places.extend(versioned.iter().map(|name| (lib(name), false)));
    places.push(("usr/sbin/ldconfig".into(), false));
    places.push(("lib64/ld-linux-x86-64.so.2".into(), false));
    places.push(("usr/local/cuda/compat/libcuda.so.999.1".into(), false));
    places
}

/// The same places outside, with a canary in each.
fn mirror(scene: &Scene) {
    for (path, is_dir) in places() {
        let path = format!("outside/{path}");
        let file = if is_dir { format!("{path}/libcuda.so.1") } else { path };
        if !scene.dir.path().join(&file).exists() {
            scene.write(&file, format!("{CANARY}\n/{CANARY}\n").as_bytes());
        }
    }
}

/// Puts `thing` into the place `path` of the root.
fn put(scene: &Scene, path: &str, thing: Thing) {
    scene.clear(path);
    let (at, outside) = (scene.root(path), scene.outside(path));
    let link = |target: &str| symlink(target, &at).unwrap();
    let below = outside.strip_prefix("/").unwrap().display().to_string();
    match thing {
        Thing::Absolute => symlink(&outside, &at).unwrap(),
        Thing::Climb => link(&format!("{}{below}", "../".repeat(64))),
        Thing::ProcRoot => link(&format!("/proc/self/root/{below}")),
        Thing::ProcFd => link(&format!("/proc/self/fd/{}/{path}", leaked(scene))),
        Thing::Pid1 => link(&format!("/proc/1/root/{below}")),
        Thing::Itself => link(Path::new(path).file_name().unwrap().to_str().unwrap()),
        Thing::Nowhere => link("/no/such/place"),
        Thing::Pair => {
            link("/pair");
            symlink(format!("/{path}"), scene.root("pair")).unwrap();
        }
        Thing::LongChain => {
            link("/chain-0");
            for n in 0..60 {
                symlink(format!("/chain-{}", n + 1), scene.root(&format!("chain-{n}"))).unwrap();
            }
            symlink(&outside, scene.root("chain-60")).unwrap();
        }
        Thing::Fifo => nix::unistd::mkfifo(&at, Mode::S_IRWXU).unwrap(),
        Thing::Socket => drop(UnixListener::bind(&at).unwrap()),
        Thing::Directory => fs::create_dir_all(at.join("sub")).unwrap(),
        Thing::Endless => {
            // /dev/zero, where it can be made: reading it has no end.
            let zero = nix::sys::stat::makedev(1, 5);
            if mknod(&at, SFlag::S_IFCHR, Mode::S_IRWXU, zero).is_err() {
                nix::unistd::mkfifo(&at, Mode::S_IRWXU).unwrap();
            }
        }
    }
}

/// Runs all three on a fresh root for each place and thing.
fn try_all(things: &[Thing], proc: bool) {
    for (path, _) in places() {
        for thing in things {
            let scene = Scene { proc, ..Scene::new() };
            mirror(&scene);
            put(&scene, &path, *thing);
            scene.all(&format!("{thing:?} at {path}"));
        }
    }
}

#[test]
fn links_never_lead_out_of_the_root() {
    try_all(&LEADING_OUT, false);
}

#[test]
fn magic_links_of_a_proc_in_the_root_never_lead_out() {
    try_all(&[Thing::ProcRoot, Thing::ProcFd, Thing::Pid1], true);
}

#[test]
fn links_that_lead_nowhere_end() {
    try_all(&LEADING_NOWHERE, false);
}

#[test]
fn special_files_are_never_opened() {
    for (path, is_dir) in places() {
        for thing in NO_FILE {
            let scene = Scene::new();
            put(&scene, &path, thing);
            // A directory may well be listed.
            let watched = thing != Thing::Directory && !is_dir;
            let watch = watched.then(|| Watch::only(&scene.root(&path)));
            for outcome in scene.all(&format!("{thing:?} at {path}")) {
                drop(outcome);
            }
            if let Some(watch) = watch {
                watch.assert_unopened(&format!("{thing:?} at {path}"));
            }
        }
    }
}

#[test]
fn the_loader_cache_is_written_inside_the_root_whatever_links_say() {
    for thing in LEADING_OUT {
        for path in ["etc", "etc/ld.so.cache", "etc/ld.so.conf", "etc/ld.so.conf.d"] {
            let scene = Scene::new();
            mirror(&scene);
            put(&scene, path, thing);
            let done = scene.ld_cache(&format!("{thing:?} at {path}"));
            let cache = scene.root("etc/ld.so.cache");
            if path != "etc" {
                assert!(done.status.success() && fs::symlink_metadata(cache).unwrap().is_file(), "{done:?}");
            }
        }
    }
}

/// Names in the root become names in the cache and of links, but no paths.
#[test]
fn a_soname_is_no_way_out() {
    let scene = Scene::new();
    let outside = scene.outside("made").display().to_string();
    let climbing = format!("{}{outside}", "../".repeat(40));
    for (index, soname) in
        [&*outside, &climbing, "..", ".", "/", "a/../../b", "a\nb.so.1", ""].iter().enumerate()
    {
        scene.file(&lib(&format!("libodd{index}.so.1")), &crate::elf::library(soname));
    }
    scene.all("SONAMEs with slashes");
    assert!(fs::symlink_metadata(outside).is_err());
}
