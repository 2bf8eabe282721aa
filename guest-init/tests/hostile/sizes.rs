//! Files and directories beyond every size.

use std::fs::{self, File};
use std::path::Path;

use guest_init::ldcache::{SearchSettings, read, resolve};

use crate::elf::library;
use crate::scene::{Scene, in_time, lib, open};

/// Makes a directory with this number of names, all of one file.
fn fill(dir: &Path, count: usize, bytes: &[u8]) {
    fs::create_dir_all(dir).unwrap();
    let mut source = dir.join("libn.so.first");
    fs::write(&source, bytes).unwrap();
    for n in 1..count {
        let name = dir.join(format!("libn.so.{n}"));
        // A file system may limit the names of one file.
        if fs::hard_link(&source, &name).is_err() {
            fs::write(&name, bytes).unwrap();
            source = name;
        }
    }
}

#[test]
fn huge_files_are_not_read() {
    for path in [
        lib("libfoo.so"),
        lib("libcuda.so.1"),
        lib("libc.so.6"),
        "lib64/ld-linux-x86-64.so.2".into(),
        "usr/sbin/ldconfig".into(),
        "etc/ld.so.conf".into(),
        "etc/ld.so.cache".into(),
        "var/lib/gpu-initrd/record.json".into(),
        "usr/local/cuda/compat/libcuda.so.999.1".into(),
    ] {
        for head in [library("libcuda.so.1"), Vec::new()] {
            let scene = Scene::new();
            scene.file(&path, &head);
            File::options().write(true).open(scene.root(&path)).unwrap().set_len(100_000_000_000).unwrap();
            scene.all(&format!("100 GB at {path}"));
        }
    }
}

#[test]
fn a_directory_at_the_limit_is_listed_and_one_above_is_named() {
    for (count, above) in [(100_000, false), (100_001, true)] {
        let scene = Scene::new();
        fill(&scene.root("opt/large"), count, b"no library");
        scene.file("etc/ld.so.conf", b"/opt/large\n");
        let [cache, _, copy] = scene.all(&format!("{count} names"));
        assert_eq!(cache.stderr.contains("expected at most 100000"), above, "{}", cache.stderr);
        assert!(copy.status.success(), "{copy:?}");
    }
}

#[test]
fn too_many_names_where_the_driver_belongs_end() {
    let scene = Scene::new();
    fill(&scene.root(&lib("")), 150_000, b"no library");
    scene.all("150000 names beside libc");
}

/// More libraries than a cache may hold.
#[test]
fn too_many_libraries_end() {
    let scene = Scene::new();
    fill(&scene.root("opt/large"), 70_000, &library(""));
    scene.file("etc/ld.so.conf", b"/opt/large\n");
    scene.all("70000 libraries");
}

/// Each library has all that a reader of it may be made to do.
#[test]
fn many_libraries_that_are_slow_to_read_end() {
    let mut slow = library("libslow.so.1");
    slow.resize(1 << 20, 0x41);
    // 250 note segments of 64 KiB, and a dynamic section that does not end.
    slow[32..40].copy_from_slice(&4096_u64.to_le_bytes());
    slow[56..58].copy_from_slice(&252_u16.to_le_bytes());
    for n in 0..252_usize {
        let at = 4096 + n * 56;
        let kind: u32 = match n {
            0 => 1,
            1 => 2,
            n => [4, 0x6474_e553][n % 2],
        };
        let (offset, len) = if n == 0 { (0, 1 << 20) } else { (65_536_u64, 65_536_u64) };
        slow[at..at + 8].copy_from_slice(&[kind.to_le_bytes(), 4_u32.to_le_bytes()].concat());
        let words = [offset, offset, offset, len, len, 8];
        slow[at + 8..at + 56].copy_from_slice(&words.map(u64::to_le_bytes).concat());
    }
    for at in (65_536..131_072).step_by(16) {
        slow[at..at + 16].copy_from_slice(&[1_u64, 0].map(u64::to_le_bytes).concat());
    }
    let scene = Scene::new();
    fill(&scene.root("opt/large"), 2000, &slow);
    scene.file("etc/ld.so.conf", b"/opt/large\n");
    scene.all("2000 slow libraries");
}

/// Programs that all name another large file as their loader.
#[test]
fn many_programs_with_large_loaders_end() {
    let scene = Scene::new();
    let mut large = library("");
    large.resize(8 << 20, b'/');
    scene.file("opt/loader", &large);
    let program = library("");
    let name = b"/lib64/ld-linux-x86-64.so.2\0";
    let at = program.windows(name.len()).position(|part| part == name).unwrap();
    for n in 0..600 {
        let mut program = program.clone();
        let loader = format!("/opt/loader{n:03}\0");
        program[at..at + loader.len()].copy_from_slice(loader.as_bytes());
        scene.file(&format!("usr/bin/program{n}"), &program);
        std::os::unix::fs::symlink("loader", scene.root(&format!("opt/loader{n:03}"))).unwrap();
    }
    scene.all("600 programs with large loaders");
}

#[test]
fn a_cache_of_the_image_is_read_within_bounds() {
    let scene = Scene::new();
    scene.ld_cache("a good cache");
    let path = scene.root("etc/ld.so.cache");
    let good = fs::read(&path).unwrap();
    assert!(read(&good).is_ok());
    let root = scene.root("");
    in_time("damaged caches", move || {
        let root = open(&root);
        let ask = |bytes: &[u8]| {
            fs::write(&path, bytes).unwrap();
            resolve(&root, "libcuda.so.1", &SearchSettings::default())
        };
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 0xff;
            ask(&bad);
            ask(&good[..at]);
        }
        // As many entries as there may be, all of one name and none there.
        let mut many = good[..48].to_vec();
        many[20..24].copy_from_slice(&65_536_u32.to_le_bytes());
        many[32..36].fill(0);
        let strings = u32::try_from(48 + 65_536 * 24).unwrap();
        for _ in 0..65_536 {
            many.extend([0x303, strings, strings, 0, 0, 1 << 30].map(u32::to_le_bytes).concat());
        }
        many.extend(b"libcuda.so.1\0");
        ask(&many);
    });
}
