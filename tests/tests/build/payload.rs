//! How the driver is carried, and for which GPUs: chosen, checked and refused at build time.

use std::path::Path;
use std::process::{Command, Output, Stdio};

use image::manifest::Kind;
use rig::build::{default_initrd, default_with, program};
use rig::variant::Variant;

/// A build that writes nothing, with the rig's lock and the whole cache.
fn dry(options: &[&str]) -> Output {
    dry_with(&default_initrd().lock, options)
}

fn dry_with(lock: &Path, options: &[&str]) -> Output {
    let mut command = Command::new(program());
    command.args(["build-initrd", "--dry-run", "--lock"]).arg(lock).args(options);
    command.stdin(Stdio::null()).output().unwrap()
}

fn refused(options: &[&str], texts: &[&str]) {
    super::sandbox::refused(&dry(&[options, &["--quiet"]].concat()), texts);
}

fn manifest(options: &[&str]) -> serde_json::Value {
    let output = dry(&[options, &["--json"]].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn only_firmware_of_the_named_gpus_is_packed() {
    let firmware = |gpus: &str| {
        let manifest = manifest(&["--payload", "files", "--gpu", gpus]);
        let files = manifest["driver"]["firmware"].as_array().unwrap().clone();
        let name = |file: &serde_json::Value| file.as_str().unwrap().rsplit('/').next().unwrap().to_owned();
        (files.iter().map(name).collect::<Vec<_>>(), manifest["driver"]["gpus"].clone())
    };
    let (files, gpus) = firmware("t4");
    assert_eq!(files, ["gsp_tu10x.bin"]);
    assert!(gpus.to_string().contains("10de:1eb8"), "{gpus}");
    assert_eq!(firmware("h100,l4").0, ["gsp_ga10x.bin"]);
    assert_eq!(firmware("10de:20b0").0, ["gsp_tu10x.bin"]);
    assert_eq!(firmware("a100,rtx-4090").0, ["gsp_ga10x.bin", "gsp_tu10x.bin"]);
}

#[test]
fn unsupported_gpu_is_refused_by_the_list_of_the_driver() {
    // The default driver knows B200, and the one before does not.
    let supported = dry(&["--gpu", "b200", "--quiet"]);
    assert!(supported.status.success(), "{}", String::from_utf8_lossy(&supported.stderr));
    let (lock, older) = (super::capabilities::lock(), super::capabilities::driver());
    for (gpu, text) in [("10de:2901", "10de:2901"), ("b200", "B200 is newer than driver")] {
        let output = dry_with(lock, &["--gpu", gpu, "--quiet"]);
        super::sandbox::refused(&output, &[text, older, "pins update"]);
    }
    refused(&["--gpu", "10de:fffe"], &["10de:fffe", default_initrd().driver()]);
    refused(&["--gpu", "no-such"], &["\"no-such\"", default_initrd().driver()]);
    refused(&["--gpu", "10de:1b06"], &["Turing"]);
}

#[test]
fn guest_memory_selects_initrd_or_disk_payload() {
    let mode = |options: &[&str]| manifest(options)["payload"]["mode"].as_str().unwrap().to_owned();
    assert_eq!(mode(&[]), "image");
    assert_eq!(mode(&["--guest-memory", "1024"]), "image");
    assert_eq!(mode(&["--guest-memory", "448"]), "disk");
    refused(
        &["--guest-memory", "64"],
        &["--guest-memory 64", "--payload image", "--payload disk", "at least"],
    );
    refused(&["--payload", "files", "--guest-memory", "256"], &["--guest-memory 256", "--payload files"]);
}

#[test]
fn disk_payload_is_one_more_output() {
    let built = default_with(&["--payload", "disk"]);
    let disk = built.disk.as_deref().unwrap();
    let verity = &manifest(&["--payload", "disk"])["payload"]["verity"];
    assert_eq!(std::fs::metadata(disk).unwrap().len(), verity["disk_size"].as_u64().unwrap());
    assert_eq!(std::fs::metadata(disk).unwrap().len() % (2 << 20), 0);
    let verify = |image: &Path| {
        let mut command = Command::new(program());
        command.arg("verify").arg(image).arg("--payload").arg(disk).arg("--lock").arg(&built.lock);
        let output = command.output().unwrap();
        (output.status.code(), String::from_utf8(output.stdout).unwrap())
    };
    let (code, text) = verify(&built.initrd);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains(" files of the payload were checked\n") && !text.contains("UNCHECKED"), "{text}");
    // A disk that can no longer be read.
    let dir = tempfile::tempdir().unwrap();
    let damaged = dir.path().join("damaged");
    let mut bytes = std::fs::read(disk).unwrap();
    bytes[1024..1028].fill(0);
    std::fs::write(&damaged, bytes).unwrap();
    let mut command = Command::new(program());
    let output = command.arg("verify").arg(&built.initrd).arg("--payload").arg(&damaged).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.code() == Some(1) && text.contains("the sha256 of its file system"), "{text}");
    assert!(text.contains("single files of the payload are UNCHECKED"), "{text}");
    // A manifest with another entry for a file in it.
    let lying = dir.path().join("lying.img");
    let mut variant = Variant::of(&built.initrd).unwrap();
    let mut digest = String::new();
    variant.edit_manifest(|manifest| {
        let file = manifest.files.iter_mut().find(|file| file.path.ends_with("/nvidia-smi")).unwrap();
        let Kind::File { sha256, .. } = &mut file.kind else { panic!("{file:?}") };
        digest = std::mem::replace(sha256, "0".repeat(64));
    });
    variant.write(&lying).unwrap();
    let (code, text) = verify(&lying);
    assert_eq!(code, Some(1), "{text}");
    let line = format!(
        "/nvidia-smi: what the payload has: expected a file with sha256 {}, found a file with sha256 {digest}",
        "0".repeat(64)
    );
    assert!(text.contains(&line), "{text}");
    super::sandbox::refused(
        &dry(&["--payload-output", "x", "--output", "x", "--quiet"]),
        &["--output and --payload-output are both x"],
    );
}
