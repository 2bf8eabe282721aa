//! Images of this project: listed, verified, compared, unpacked, and inside a unified kernel image.

use std::{fs, process::Command};

use image::layout;
use image::manifest::{Kind, Manifest};
use rig::{
    build::{initrd, initrd_for_disk, program},
    process::run,
    variant::{self, Variant},
};
use serde_json::Value;

use super::{compare, host_builder, json};

#[test]
fn built_initrd_is_listed_as_by_cpio_and_verifies() {
    let built = initrd();
    compare(&built.initrd);
    let lock = built.lock.to_str().unwrap();
    let verified = host_builder(&["verify", "--lock", lock], &built.initrd);
    assert_eq!(verified.status.code(), Some(0), "{verified:?}");
    let text = String::from_utf8(verified.stdout).unwrap();
    assert!(
        text.contains(&format!("\nsha256 {}\n", built.sha256())) && text.contains("not an attacker"),
        "{text}"
    );
    let compared = text.lines().any(|line| line.ends_with("files match those of their packages"));
    assert!(compared && !text.contains("UNCHECKED"), "{text}");
    let digest = |digest: &str| host_builder(&["verify", "--sha256", digest], &built.initrd).status.code();
    assert_eq!((digest(built.sha256()), digest(&"0".repeat(64))), (Some(0), Some(1)));
    let dir = tempfile::tempdir().unwrap();
    let picture = dir.path().join("initrd.svg");
    assert!(host_builder(&["inspect", "--plot", picture.to_str().unwrap()], &built.initrd).status.success());
    let picture = fs::read_to_string(picture).unwrap();
    assert!(picture.starts_with("<svg ") && picture.contains("gsp_ga10x.bin"), "{picture}");
    let report = json(&["inspect", "--json"], &built.initrd);
    assert_eq!(
        (&report["driver"], &report["kernel_releases"][0]),
        (&built.driver().into(), &built.release().into())
    );
    let why = |name: &str| {
        let modules = report["modules"].as_array().unwrap();
        modules.iter().find(|module| module["name"] == name).unwrap()["why"].as_str().unwrap().to_owned()
    };
    assert!(why("nvidia").starts_with("needed by nvidia_uvm"), "{}", why("nvidia"));
    assert!(why("nvidia_uvm").starts_with("requested by the profile"), "{}", why("nvidia_uvm"));
    // Without the packages, their files are reported as unchecked.
    let empty = tempfile::tempdir().unwrap();
    let mut command = Command::new(program());
    command.args(["verify", "--lock", lock]).arg(&built.initrd).env("GPU_INITRD_CACHE", empty.path());
    let verified = command.output().unwrap();
    let text = String::from_utf8(verified.stdout).unwrap();
    assert!(
        verified.status.success() && text.contains("\n0 files match those of their packages\n"),
        "{text}"
    );
    assert!(text.contains(" UNCHECKED: it is neither in the cache nor in a mirror"), "{text}");
    // A document that cannot be written whole is an error.
    let full = fs::File::options().write(true).open("/dev/full").unwrap();
    let sbom = Command::new(program()).arg("sbom").arg(&built.initrd).stdout(full).output().unwrap();
    let text = String::from_utf8_lossy(&sbom.stderr);
    assert!(
        sbom.status.code() == Some(2) && text.contains("writing the result to standard output"),
        "{text}"
    );
    for format in ["cyclonedx", "spdx"] {
        let args = ["sbom", "--format", format];
        assert_eq!(json(&args, &built.initrd), json(&args, &built.initrd));
    }
}

#[test]
fn altered_image_differs_from_the_built_one() {
    let dir = tempfile::tempdir().unwrap();
    let altered = dir.path().join("altered.img");
    let mut variant = Variant::of(&initrd().initrd).unwrap();
    variant.file(layout::INIT)[1000] ^= 1;
    variant.write(&altered).unwrap();
    let report = host_builder(&["verify", "--json"], &altered);
    assert_eq!(report.status.code(), Some(1));
    let report: Value = serde_json::from_slice(&report.stdout).unwrap();
    assert_eq!(report["differences"][0]["of"], layout::INIT);
    assert_eq!(report["differences"][0]["what"], "its sha256");
    let original = initrd().initrd.to_str().unwrap();
    let differences = host_builder(&["diff", "--json", original], &altered);
    assert_eq!(differences.status.code(), Some(1));
    let differences: Value = serde_json::from_slice(&differences.stdout).unwrap();
    assert_eq!(differences["changed"].as_array().unwrap().len(), 1, "{differences}");
    assert_eq!(host_builder(&["diff", original], &initrd().initrd).status.code(), Some(0));

    // The same driver on a disk: none of its files is added, removed or changed.
    let on_disk = host_builder(&["diff", "--json", original], &initrd_for_disk().initrd);
    let differences: Value = serde_json::from_slice(&on_disk.stdout).unwrap();
    assert_eq!(on_disk.status.code(), Some(1));
    assert_eq!(differences["payload"], serde_json::json!({"a": "files", "b": "disk"}), "{differences}");
    assert_eq!(differences["driver_files"], serde_json::json!({"added": [], "removed": [], "changed": []}));
    let added =
        differences["added"].as_array().unwrap().iter().chain(differences["removed"].as_array().unwrap());
    assert!(
        added.into_iter().all(|only| !only["path"].as_str().unwrap().contains("libcuda")),
        "{differences}"
    );

    // One file of it altered, and the manifest as it was.
    let altered = dir.path().join("altered-driver.img");
    let path = format!("/usr/lib/nvidia/libcuda.so.{}", initrd().driver());
    let mut variant = Variant::of(&initrd().initrd).unwrap();
    variant.file(&path)[1000] ^= 1;
    variant.write(&altered).unwrap();
    let differences = host_builder(&["diff", original], &altered);
    let text = String::from_utf8(differences.stdout).unwrap();
    assert!(text.contains(&format!("! {path}  driver's content, ")), "{text}");
}

/// An attacker who alters a file alters its digest in the manifest, too.
#[test]
fn consistent_forged_image_differs_from_its_packages() {
    let (dir, built) = (tempfile::tempdir().unwrap(), initrd());
    let lock = built.lock.to_str().unwrap();
    let manifest = variant::manifest(&built.initrd).unwrap();
    for of in ["/libcuda.so.", "/nvidia.ko", "/virtio_blk.ko", "/gsp_ga10x.bin"] {
        let file = manifest.files.iter().find(|file| file.path.contains(of)).unwrap();
        let altered = dir.path().join("altered.img");
        let mut variant = Variant::of(&built.initrd).unwrap();
        let bytes = variant.file(&file.path);
        bytes[1000] ^= 1;
        let new = host_builder::common::digest::sha256(bytes);
        variant.edit_manifest(|manifest| set_digest(manifest, &file.path, &new));
        variant.write(&altered).unwrap();
        assert_eq!(host_builder(&["verify"], &altered).status.code(), Some(0), "{of}");
        let verified = host_builder(&["verify", "--lock", lock], &altered);
        let text = String::from_utf8(verified.stdout).unwrap();
        assert_eq!(verified.status.code(), Some(1), "{text}");
        let line = format!(
            "{}: its content: expected a file of {}, found {new}\n1 difference",
            file.path, file.origin
        );
        assert!(text.starts_with(&line), "{text}");
    }
}

/// An EFI program with an initramfs in it, as ukify makes one: the kernel's stub with a section of
/// objcopy's.
#[test]
fn unified_kernel_image_is_inspected() {
    let dir = tempfile::tempdir().unwrap();
    let built = initrd();
    let image = dir.path().join("linux.efi");
    let mut objcopy = Command::new("objcopy");
    objcopy.arg(format!("--add-section=.initrd={}", built.initrd.display()));
    objcopy.args(["--set-section-flags=.initrd=data,readonly", "--change-section-vma=.initrd=0x4000000"]);
    run(objcopy.arg(&built.kernel).arg(&image)).unwrap();
    assert_eq!(json(&["list", "--json"], &image)["files"], json(&["list", "--json"], &built.initrd)["files"]);
    assert_eq!(host_builder(&["diff", image.to_str().unwrap()], &built.initrd).status.code(), Some(0));
    let none = host_builder(&["list"], &built.kernel);
    let text = String::from_utf8(none.stderr).unwrap();
    assert!(none.status.code() == Some(2) && text.contains("without a section .initrd"), "{text}");
}

fn set_digest(manifest: &mut Manifest, path: &str, digest: &str) {
    let file = manifest.files.iter_mut().find(|file| file.path == path).unwrap();
    let Kind::File { sha256, .. } = &mut file.kind else { panic!("{file:?}") };
    digest.clone_into(sha256);
}

#[test]
fn cat_and_extract_agree_and_a_closed_pipe_is_success() {
    let image = &initrd().initrd;
    let dir = tempfile::tempdir().unwrap();
    let to = dir.path().join("to");
    run(Command::new(program()).arg("extract").arg(image).arg("--to").arg(&to)).unwrap();
    let out = run(Command::new(program()).arg("cat").arg(image).args([layout::INIT, layout::MANIFEST]))
        .unwrap()
        .stdout;
    let inside = |path: &str| fs::read(to.join(path.trim_start_matches('/'))).unwrap();
    assert!(out == [inside(layout::INIT), inside(layout::MANIFEST)].concat());
    let missing = Command::new(program()).arg("cat").arg(image).arg("/none").output().unwrap();
    assert_eq!(missing.status.code(), Some(2));
    let mut closed = Command::new("bash");
    closed.args(["-c", "\"$1\" cat \"$2\" /init | head -c 10 >/dev/null; exit ${PIPESTATUS[0]}", "cat"]);
    assert!(closed.arg(program()).arg(image).status().unwrap().success());
}
