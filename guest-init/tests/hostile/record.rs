//! The record of copies, as an image may bring it along.

use std::fs;
use std::os::unix::fs::MetadataExt;

use crate::elf::library;
use crate::scene::{CANARY, Scene, VERSION, lib};

const RECORD: &str = "var/lib/gpu-initrd/record.json";

fn record(entries: &str) -> String {
    format!(r#"{{"format": 1, "version": "1", "complete": true, "entries": {{{entries}}}}}"#)
}

#[test]
fn a_malformed_record_is_not_used() {
    for text in [
        "",
        "{",
        "null",
        "[]",
        "\0",
        r#"{"format": 2}"#,
        r#"{"format": "1", "entries": []}"#,
        r#"{"format": 1, "complete": true, "entries": {"/a": {"kind": "file", "size": -1, "inode": 0, "modified_ns": 0}}}"#,
        r#"{"format": 1, "complete": true, "entries": {"/a": {"kind": "device"}}}"#,
        &"[".repeat(1 << 19),
        &record(&r#""/a": {"kind": "link", "target": "b"},"#.repeat(20_000)),
    ] {
        let scene = Scene::new();
        scene.file(RECORD, text.as_bytes());
        let done = scene.copy(&format!("a record of {} bytes", text.len()));
        assert!(done.status.success(), "{text:.60}: {done:?}");
    }
}

/// What is recorded as ours is removed when it is of an earlier driver. Paths that are no plain paths are not ours.
#[test]
fn a_record_leads_to_nothing_outside() {
    let scene = Scene::new();
    fs::write(scene.outside("victim"), CANARY).unwrap();
    let meta = fs::metadata(scene.outside("victim")).unwrap();
    let ns = i128::from(meta.mtime()) * 1_000_000_000 + i128::from(meta.mtime_nsec());
    let (ino, size) = (meta.ino(), meta.size());
    let file = format!(r#"{{"kind": "file", "size": {size}, "inode": {ino}, "modified_ns": {ns}}}"#);
    let victim = scene.outside("victim").display().to_string();
    let climb = format!("{}{victim}", "/..".repeat(40));
    let relative = "../outside/victim".to_owned();
    let proc = format!("/proc/self/root{victim}");
    let paths = [&victim, &climb, &relative, &proc];
    let mut entries: Vec<String> = paths.iter().map(|path| format!("{path:?}: {file}")).collect();
    for odd in ["", "/", "..", ".", "/..", "a\\u0000b", "/etc/", &"/a".repeat(3000), "/usr", "\\n"] {
        entries.push(format!(r#""{odd}": {{"kind": "link", "target": "x"}}"#));
    }
    entries.push(r#""/etc/x": {"kind": "masked", "name": "../../../outside/victim"}"#.into());
    scene.file(RECORD, record(&entries.join(",")).as_bytes());
    let done = scene.copy("a record of paths outside");
    assert!(done.status.success(), "{done:?}");
    assert_eq!(done.json("/removed"), serde_json::json!([]));
    assert_eq!(fs::read_to_string(scene.outside("victim")).unwrap(), CANARY);
    assert!(scene.root(&lib(&format!("libcuda.so.{VERSION}"))).exists());
}

/// A file of the image that a record claims is removed or left; the driver comes in either way.
#[test]
fn a_record_that_claims_the_images_files_does_not_keep_the_driver_out() {
    let scene = Scene::new();
    scene.file("etc/passwd", b"root:x:0:0::/:/bin/sh\n");
    let size = fs::metadata(scene.root("etc/passwd")).unwrap().size();
    let pending = format!(r#"{{"kind": "file", "size": {size}, "inode": 0, "modified_ns": 0}}"#);
    scene.file(RECORD, record(&format!(r#""/etc/passwd": {pending}"#)).as_bytes());
    let done = scene.copy("a record that claims /etc/passwd");
    assert!(done.status.success(), "{done:?}");
    assert_eq!(scene.copy("again").json("/changed"), 0);
    assert_eq!(
        fs::read(scene.root(&lib(&format!("libcuda.so.{VERSION}")))).unwrap(),
        library("libcuda.so.1")
    );
}
