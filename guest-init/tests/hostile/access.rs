//! Directories without permission, and names that are no text.

use std::ffi::OsStr;
use std::fs::{self, Permissions};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;

use crate::elf::library;
use crate::scene::{Scene, lib};

/// Root may do everything, so it is nobody who tries.
#[test]
fn what_may_not_be_read_is_named_or_passed_over() {
    for path in [
        "",
        "usr",
        "usr/lib",
        &lib(""),
        &lib("libc.so.6"),
        "usr/bin",
        "etc",
        "etc/ld.so.conf",
        "etc/ld.so.conf.d",
        "var",
        "var/lib",
        "opt/a",
        "opt/a/libx.so.1",
    ] {
        for mode in [0o000, 0o111, 0o444, 0o555] {
            let mut scene = Scene::at(&std::env::temp_dir());
            scene.file("opt/a/libx.so.1", &library("libx.so.1"));
            scene.file("etc/ld.so.conf.d/a.conf", b"/opt/a\n");
            scene.for_nobody();
            let before = fs::metadata(scene.root(path)).unwrap().permissions();
            fs::set_permissions(scene.root(path), Permissions::from_mode(mode)).unwrap();
            scene.all(&format!("mode {mode:03o} at /{path}"));
            fs::set_permissions(scene.root(path), before).unwrap();
        }
    }
}

#[test]
fn names_need_not_be_text() {
    let scene = Scene::new();
    let names: [&[u8]; 7] = [b"\xff", b"a\nb", b"\x1b]0;x\x07", b"\xed\xa0\x80", b" ", b"\"\\", &[b'x'; 240]];
    for name in names {
        for parent in [&lib(""), "usr/bin", "usr/local", "opt", "etc/ld.so.conf.d"] {
            let at = |before: &str, after: &str| {
                let name = [before.as_bytes(), name, after.as_bytes()].concat();
                scene.root(parent).join(OsStr::from_bytes(&name))
            };
            fs::create_dir_all(at("cuda", "").join("compat")).unwrap();
            fs::write(at("cuda", "").join("compat/libcuda.so.999.1"), library("libcuda.so.1")).unwrap();
            fs::write(at("lib", ".so.1"), library("libcuda.so.1")).unwrap();
            fs::write(at("", ".conf"), b"/opt/\xff\n").unwrap();
        }
    }
    let [cache, layer, copy] = scene.all("names that are no text");
    for outcome in [&cache, &layer, &copy] {
        assert_eq!(outcome.status.code(), Some(0), "{outcome:?}");
        let clean = |text: &str| text.chars().all(|c| c == '\n' || !c.is_control());
        assert!(clean(&outcome.stdout) && clean(&outcome.stderr), "{outcome:?}");
    }
}

/// A driver's name may be as long as a name can be.
#[test]
fn the_longest_driver_name_does_not_keep_the_driver_out() {
    let scene = Scene::new();
    let name = format!("libcuda.so.{}", "1".repeat(244));
    scene.file(&lib(&name), &library("libcuda.so.1"));
    for outcome in scene.all("a driver's name of 255 bytes") {
        assert_eq!(outcome.status.code(), Some(0), "{outcome:?}");
    }
}
