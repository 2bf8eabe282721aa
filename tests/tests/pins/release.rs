//! The release page: resolved, used for a build, checked again.

use std::{fs, os::unix::fs::MetadataExt};

use host_builder::common::digest::{sha256, sha256_file};
use host_builder::pins::lock::{Digest, SourceKind};
use image::manifest::Manifest;
use rig::build::initrd;

use super::place::{Place, address, driver_files, parts};

#[test]
fn first_resolve_records_and_reports_digests() {
    let place = Place::new();
    let (out, err) = place.good(&["pins", "resolve"]);
    assert!(out.contains("4 added, 0 removed"), "{out}");
    let lock = place.lock();
    assert_eq!((lock.driver.as_str(), lock.kernel_release.as_str()), (initrd().driver(), initrd().release()));
    assert_eq!(lock.artifact.len(), 4);
    for artifact in &lock.artifact {
        assert_eq!((artifact.source, artifact.digest), (SourceKind::Http, Digest::Recorded));
        let said = format!("recorded: {} ", artifact.name);
        assert!(err.contains(&said) && err.contains(&artifact.sha256), "{said}: {err}");
        assert!(artifact.unpacked.unwrap() > 0 && artifact.url.is_some());
    }
    assert_eq!(place.artifact("vmlinux").sha256, sha256_file(&initrd().kernel).unwrap());
    // Only the firmware of the installer counts.
    let firmware: u64 = fs::read_dir(parts().path("installer/firmware"))
        .unwrap()
        .map(|e| e.unwrap().metadata().unwrap().size())
        .sum();
    assert_eq!(place.artifact("nvidia-installer").unpacked, Some(firmware));

    let (out, _) = place.good(&["pins", "resolve"]);
    assert!(out.contains("0 added, 0 removed, 0 changed, 4 unchanged"), "{out}");
    let fetched =
        place.server.requests().into_iter().filter(|request| request.contains("vmlinux")).collect::<Vec<_>>();
    assert_eq!(
        fetched.len(),
        2,
        "the second time the server is only asked whether it is the same: {fetched:?}"
    );
}

#[test]
fn release_initrd_has_the_driver_files_of_the_package_initrd() {
    let place = Place::new();
    place.server.cut(&address("nvidia-driver-libs-x86_64.tar.gz"), 3_000_000);
    let (out, err) = place.good(&["build-initrd", "--dry-run", "--json"]);
    let manifest = Manifest::from_json(out.as_bytes()).unwrap();
    let (ours, theirs) = (driver_files(&manifest), driver_files(&parts().manifest));
    assert!(theirs.len() > 15, "{theirs:?}");
    assert_eq!(ours, theirs, "{err}");
    assert_eq!(manifest.kernel_release, initrd().release());
    assert_eq!(manifest.driver, parts().manifest.driver);
    let names = |manifest: &Manifest| {
        let gpu = manifest.modules.iter().filter(|module| module.name.starts_with("nvidia"));
        gpu.map(|module| (module.name.clone(), module.version.clone())).collect::<Vec<_>>()
    };
    assert_eq!(names(&manifest), names(&parts().manifest));
    let resumed = place.server.requests().iter().any(|request| request.ends_with("bytes=3000000-"));
    assert!(resumed, "{:?}", place.server.requests());
    assert!(!place.path("r.lock").exists(), "a dry run wrote the lock");

    place.good(&["build-initrd"]);
    assert_eq!(sha256_file(&place.path("out/vmlinuz")).unwrap(), sha256_file(&initrd().kernel).unwrap());
    assert!(place.path("r.lock").exists());
    // A lock of files from a web server has the address of every file.
    let verify = |lock: &str| {
        let mut command = std::process::Command::new(rig::build::program());
        place.prepare(command.args(["verify", "out/initrd.img", "--lock", lock]));
        let output = command.output().unwrap();
        (output.status.code(), String::from_utf8(output.stdout).unwrap())
    };
    let (code, text) = verify("r.lock");
    assert!(code == Some(0) && text.starts_with("good: "), "{text}");
    let lock = fs::read_to_string(place.path("r.lock")).unwrap();
    let libs = place.artifact("nvidia-driver-libs").sha256;
    fs::write(place.path("other.lock"), lock.replace(&libs, &"0".repeat(64))).unwrap();
    let (code, text) = verify("other.lock");
    assert!(
        code == Some(1)
            && text.contains("nvidia-driver-libs")
            && text.contains(&libs[..16])
            && text.contains("sha256:0000"),
        "{text}"
    );
    let first = sha256_file(&place.path("out/initrd.img")).unwrap();
    let output = place.command(&["build-initrd", "--offline", "--output", "again.img"]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(sha256_file(&place.path("again.img")).unwrap(), first);
}

#[test]
fn changed_and_removed_artifacts_are_named() {
    let place = Place::new();
    place.good(&["pins", "resolve", "--quiet"]);
    let (out, _) = place.good(&["pins", "verify"]);
    assert!(out.contains("4 artifacts: 4 hashed, 0 not in the cache, 4 unpacked copies compared, 4 still offered, 0 problems"), "{out}");
    assert!(out.contains("4 digests were recorded"), "{out}");

    // Altered where it was unpacked, with its index.
    let tree = place.path("cache/trees").join(place.artifact("nvidia-modules").tree_key());
    let module = walkdir::WalkDir::new(&tree).into_iter().map(Result::unwrap);
    let module = module.map(walkdir::DirEntry::into_path).find(|path| path.ends_with("nvidia.ko")).unwrap();
    fs::write(&module, "altered").unwrap();
    fs::write(tree.join("files/new"), "").unwrap();
    let output = place.command(&["pins", "verify", "--offline"]).output().unwrap();
    let out = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{out}");
    assert!(
        out.contains("nvidia.ko: expected sha256") && out.contains("files/new: is not in the package"),
        "{out}"
    );
    assert!(out.contains(", 2 problems"), "{out}");
    fs::remove_dir_all(&tree).unwrap();

    // Gone from the page, and damaged here.
    place.server.offer(&address("vmlinux-x86_64"), None);
    let modules = place.artifact("nvidia-modules");
    let blob = place.path("cache/blobs/sha256").join(&modules.sha256);
    let mut bytes = fs::read(&blob).unwrap();
    bytes[5000] ^= 1;
    fs::write(&blob, &bytes).unwrap();
    let output = place.run(&["pins", "verify"]);
    let out = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1), "{out}");
    assert!(out.contains("vmlinux") && out.contains("no longer offers"), "{out}");
    assert!(
        out.contains(&modules.sha256) && out.contains(&sha256(&bytes)) && out.contains("2 problems"),
        "{out}"
    );

    // Put back as another file: the build stays with the lock, and a new lock says what changed.
    let other = place.path("other");
    fs::write(&other, [fs::read(&initrd().kernel).unwrap(), vec![0]].concat()).unwrap();
    place.server.offer(&address("vmlinux-x86_64"), Some(&other));
    fs::remove_file(&blob).unwrap();
    let (old, new) = (place.artifact("vmlinux").sha256, sha256_file(&other).unwrap());
    let (out, _) = place.good(&["pins", "resolve", "--dry-run"]);
    assert!(
        out.contains(&format!("~ vmlinux:x86_64 ch-6.12.8-kernel-2-20251211, sha256 {old:.12} -> {new:.12}")),
        "{out}"
    );
    assert_eq!(place.artifact("vmlinux").sha256, old, "a dry run wrote the lock");
    fs::remove_file(place.path("cache/blobs/sha256").join(&old)).unwrap();
    place.refuses(&["build-initrd"], &["vmlinux-x86_64", "expected", "the server has"]);
}

#[test]
fn list_and_show_print_profiles_and_artifacts() {
    let place = Place::new();
    let list = |place: &Place| {
        let mut command = std::process::Command::new(rig::build::program());
        place.prepare(command.args(["pins", "list", "--profile", "./profile.toml", "--lock", "r.lock"]));
        String::from_utf8(command.output().unwrap().stdout).unwrap()
    };
    let before = list(&place);
    assert!(
        before.starts_with("profile ") && before.contains("| not resolved") && before.contains("debian-13"),
        "{before}"
    );
    place.good(&["pins", "resolve", "--quiet"]);
    let after = list(&place);
    let row = format!("{} | {} | not in its list | 12.4 ", initrd().release(), initrd().driver());
    assert!(
        after.lines().any(|line| line.split_whitespace().collect::<Vec<_>>().join(" ").contains(&row)
            && line.ends_with("all 4 cached")),
        "{row}: {after}"
    );
    let (shown, _) = place.good(&["pins", "show"]);
    for artifact in place.lock().artifact {
        assert!(shown.contains(&artifact.sha256) && shown.contains(&artifact.url.unwrap()), "{shown}");
    }
    let (json, _) = place.good(&["pins", "show", "--json"]);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["artifact"][0]["here"], true, "{json}");
}

#[test]
fn modules_without_firmware_need_an_explicit_profile_key() {
    let mut place = Place::new();
    place.edit_profile("only = [\"firmware\"]", "only = [\"nothing\"]");
    place.refuses(&["pins", "resolve"], &["gsp_", "firmware = \"none\"", "NVIDIA-Linux-x86_64-"]);
    place.edit_profile("[kernel]\n", "firmware = \"none\"\n[kernel]\n");
    place.edit_profile("arch = ", "firmware = \"none\"\narch = ");
    place.edit_profile("firmware = \"none\"\n[kernel]\n", "[kernel]\n");
    let (out, _) = place.good(&["build-initrd", "--dry-run", "--json"]);
    assert!(!out.contains("/lib/firmware/nvidia"), "firmware is in the plan");
}
