//! ld.so.conf as a bomb.

use std::fmt::Write;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;

use crate::elf::library;
use crate::scene::{Scene, lib};

/// Bytes of the largest ld.so.conf that is read.
const FULL: usize = 1 << 20;

#[test]
fn includes_that_double_each_time_end() {
    let scene = Scene::new();
    for n in 0..30 {
        let line = format!("include /etc/c{}\n", n + 1);
        scene.file(&format!("etc/c{n}"), line.repeat(2).as_bytes());
    }
    scene.file("etc/ld.so.conf", b"include /etc/c0\n");
    scene.all("doubling includes");
}

#[test]
fn files_that_include_each_other_end() {
    let scene = Scene::new();
    scene.file("etc/ld.so.conf", b"include /etc/a\ninclude /etc/ld.so.conf\ninclude /etc/*\n");
    scene.file("etc/a", b"include ../etc/ld.so.conf\ninclude a\ninclude again\n/opt/a\n");
    symlink("a", scene.root("etc/again")).unwrap();
    scene.all("a cycle of includes");
    let scene = Scene::new();
    for n in 0..3000 {
        scene.file(&format!("etc/c{n}"), format!("include c{}\n", n + 1).as_bytes());
    }
    scene.file("etc/ld.so.conf", b"include c0\n");
    scene.all("a chain of 3000 includes");
}

/// Sixteen files may include each other; each may hold a megabyte of the shortest lines.
#[test]
fn nested_full_files_take_little_memory() {
    let scene = Scene::new();
    for (name, filler) in
        [("lines", "a\n"), ("words", "include a a a a a a a a a a a a a a a a a a a a a a a\n")]
    {
        for n in 0..20 {
            let first = format!("include /etc/{name}{}\n", n + 1);
            let rest = filler.repeat((FULL - first.len()) / filler.len());
            scene.file(&format!("etc/{name}{n}"), (first + &rest).as_bytes());
        }
        scene.file("etc/ld.so.conf", format!("include /etc/{name}0\n").as_bytes());
        scene.all(&format!("nested files full of {name}"));
    }
}

#[test]
fn one_file_included_again_and_again_ends() {
    let scene = Scene::new();
    scene.file("etc/full", "/a\n".repeat(FULL / 3).as_bytes());
    scene.file("etc/comments", "#\n".repeat(FULL / 2).as_bytes());
    scene.file("etc/ld.so.conf", "include comments full\n".repeat(FULL / 22).as_bytes());
    scene.all("one file again and again");
}

#[test]
fn patterns_over_links_that_lead_back_end() {
    let scene = Scene::new();
    for n in 0..200 {
        symlink("/", scene.root(&format!("again{n}"))).unwrap();
    }
    scene.file("etc/ld.so.conf", "include /*/*/*/*/*/*/*/*.conf\n".repeat(1000).as_bytes());
    scene.all("patterns over links that lead back");
}

#[test]
fn long_patterns_take_little_time_and_memory() {
    let scene = Scene::new();
    for n in 0..10_000 {
        fs::create_dir(scene.root(&format!("etc/{}{n}", "z".repeat(200)))).unwrap();
    }
    let long = "/a".repeat(FULL / 2 - 20);
    scene.file("etc/ld.so.conf", format!("include /etc/*{long}\n").as_bytes());
    scene.all("a long path behind many matches");
    let brackets = "*[xyz]".repeat(600);
    scene.file("etc/ld.so.conf", format!("include /etc/{brackets}\n").repeat(FULL / 3700).as_bytes());
    scene.all("patterns with many stars");
    let set = format!("*[{}]a", "b".repeat(4000));
    scene.file("etc/ld.so.conf", format!("include /etc/{set}\n").repeat(FULL / 4100).as_bytes());
    scene.all("patterns with large sets");
}

#[test]
fn many_patterns_over_a_large_directory_end() {
    let scene = Scene::new();
    fs::create_dir(scene.root("large")).unwrap();
    for n in 0..20_000 {
        fs::write(scene.root(&format!("large/{n}")), "").unwrap();
    }
    scene.file("etc/ld.so.conf", "include /large/*x\n".repeat(FULL / 18).as_bytes());
    scene.all("many patterns over a large directory");
}

/// Until glibc 2.31 a line could add a name for special hardware.
#[test]
fn many_hwcap_lines_end() {
    let scene = Scene::new();
    let mut libc = library("libc.so.6");
    libc.extend(b"GNU C Library (Debian GLIBC 2.31-13) stable release version 2.31.\n\0");
    scene.file(&lib("libc.so.6"), &libc);
    scene.file("etc/ld.so.conf", "hwcap 0 a\n".repeat(FULL / 10).as_bytes());
    scene.all("many hwcap lines");
}

#[test]
fn directories_under_many_names_are_looked_at_once() {
    let scene = Scene::new();
    for n in 0..5000 {
        fs::create_dir_all(scene.root(&format!("opt/a/glibc-hwcaps/{n}"))).unwrap();
    }
    let mut conf = String::new();
    for n in 0..4096 {
        let _ = writeln!(conf, "/opt{}/a", "/.".repeat(n % 64));
    }
    scene.file("etc/ld.so.conf", conf.as_bytes());
    scene.all("one directory under many names");
}

/// Each link stands for two thousand names, and forty of them may follow each other.
#[test]
fn winding_links_end() {
    let scene = Scene::new();
    let mut deep = String::from("opt");
    for _ in 0..1000 {
        deep += "/a";
    }
    fs::create_dir_all(scene.root("opt/a")).unwrap();
    // There is one directory, which leads back to itself.
    symlink(".", scene.root("opt/a/a")).unwrap();
    for n in 0..39 {
        let back = "a/".repeat(30) + &"a/../".repeat(700);
        symlink(format!("/opt/{back}../w{}", n + 1), scene.root(&format!("opt/w{n}"))).unwrap();
    }
    let mut conf = String::new();
    for n in 0..4096 {
        let _ = writeln!(conf, "/opt{}/w{}", "/.".repeat(n / 40), n % 40);
    }
    scene.file("etc/ld.so.conf", conf.as_bytes());
    scene.all("winding links");
}

#[test]
fn odd_bytes_are_no_harm() {
    let scene = Scene::new();
    let conf =
        b"/opt/\0a\n/opt/\xff\xfe\ninclude /etc/ld.so.conf.d/\xff*\ninclude\t\x01[\n\\\n/../../../../opt\n";
    scene.file("etc/ld.so.conf", conf);
    for name in [b"new\nline.conf".as_slice(), b"\xff.conf", b"\x1b[31m.conf", b"[.conf", b"*.conf"] {
        fs::write(scene.root("etc/ld.so.conf.d").join(std::ffi::OsStr::from_bytes(name)), conf).unwrap();
    }
    fs::create_dir(scene.root("opt").join(std::ffi::OsStr::from_bytes(b"\xff\xfe"))).unwrap_or_default();
    scene.all("odd bytes");
    for (what, len) in [("of the largest size", FULL), ("too large", 10 << 20)] {
        scene.file("etc/ld.so.conf", "x".repeat(len).as_bytes());
        scene.all(&format!("one line {what}"));
        scene.file("etc/ld.so.conf", &vec![0; len]);
        scene.all(&format!("NULs {what}"));
    }
}
