//! `build-modules`: the modules of an image again as an archive, and modules for other kernels,
//! signed and reproducible.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use host_builder::common::digest::sha256_file;
use image::manifest::Manifest;
use rig::{
    build::{initrd, program},
    process::run,
    roots::{Recipe, Suite},
};
use tempfile::TempDir;

use super::place::{Place, driver_files, parts};

/// Sources that are built as NVIDIA's are: the stub driver.
pub fn stub(directory: &Path) {
    let stub = Path::new(env!("CARGO_MANIFEST_DIR")).join("stub");
    fs::create_dir_all(directory).unwrap();
    for entry in fs::read_dir(stub).unwrap().map(Result::unwrap) {
        fs::copy(entry.path(), directory.join(entry.file_name())).unwrap();
    }
    fs::copy(directory.join("Makefile"), directory.join("Kbuild")).unwrap();
}

/// Debian 12's kernel headers, in a root that is used for nothing else.
fn headers() -> PathBuf {
    let root = Recipe::minbase(Suite::Bookworm).with(&["linux-headers-cloud-amd64"]).directory().unwrap();
    let mut found = fs::read_dir(root.join("usr/src")).unwrap().map(|entry| entry.unwrap().path());
    found.find(|path| path.join("Module.symvers").exists()).expect("the packages bring configured headers")
}

/// A copy of the headers and of their programs, elsewhere.
pub fn copy_of_headers(to: &Path) -> PathBuf {
    let headers = headers();
    let usr = headers.parent().unwrap().parent().unwrap();
    fs::create_dir_all(to.join("usr/lib")).unwrap();
    run(Command::new("cp").arg("-a").arg(usr.join("src")).arg(to.join("usr"))).unwrap();
    for entry in fs::read_dir(usr.join("lib")).unwrap().map(Result::unwrap) {
        if entry.file_name().to_string_lossy().starts_with("linux-kbuild-") {
            run(Command::new("cp").arg("-a").arg(entry.path()).arg(to.join("usr/lib"))).unwrap();
        }
    }
    to.join("usr/src").join(headers.file_name().unwrap())
}

/// `build-modules` with the caller's toolchain, for the stub driver and these headers.
fn build(at: &Path, headers: &Path, more: &[&str]) -> Output {
    let mut command = Command::new(program());
    command.args(["build-modules", "--toolchain", "host", "--source", "source", "--headers"]).arg(headers);
    command.args(["--output", "m.tar.gz", "--quiet"]).args(more);
    command.current_dir(at).env_remove("CC").stdin(Stdio::null()).output().unwrap()
}

fn good(output: &Output) {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Where the archive's modules are, once unpacked.
fn unpacked(at: &Path, archive: &str) -> PathBuf {
    let to = at.join(format!("{archive}.d"));
    fs::create_dir(&to).unwrap();
    run(Command::new("tar").arg("-C").arg(&to).arg("-xzf").arg(at.join(archive))).unwrap();
    let release = fs::read_dir(to.join("lib/modules")).unwrap().next().unwrap().unwrap();
    release.path().join("kernel/drivers/gpu")
}

/// A key with its certificate.
pub fn key(at: &Path) {
    let mut openssl = Command::new("openssl");
    openssl.args([
        "req", "-new", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "key.pem", "-out", "cert.pem",
    ]);
    run(openssl.args(["-subj", "/CN=rig signer", "-days", "30"]).current_dir(at)).unwrap();
}

const SIGNED: [&str; 4] = ["--sign-key", "key.pem", "--sign-cert", "cert.pem"];

#[test]
fn built_modules_match_the_initrd_and_serve_as_an_artifact() {
    let mut place = Place::new();
    let mut command = Command::new(program());
    command.args(["build-modules", "--quiet", "--lock"]).arg(&initrd().lock);
    command.args(["--output", "m.tar.gz", "--validation", "m.json"]).current_dir(place.path("."));
    good(&command.stdin(Stdio::null()).output().unwrap());

    let ours = unpacked(&place.path("."), "m.tar.gz");
    let theirs = parts().path("modules/lib/modules").join(initrd().release()).join("kernel/drivers/gpu");
    let mut compared = 0;
    for entry in fs::read_dir(theirs).unwrap().map(Result::unwrap) {
        let ours = sha256_file(&ours.join(entry.file_name())).unwrap();
        assert_eq!(ours, sha256_file(&entry.path()).unwrap(), "{}", entry.file_name().display());
        compared += 1;
    }
    assert!(compared >= 4, "{compared}");
    let text = fs::read_to_string(place.path("m.json")).unwrap();
    assert_eq!(text, fs::read_to_string(ours.join("nvidia-modules.json")).unwrap());
    let validation: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(validation["kernel_release"], initrd().release());
    assert_eq!(validation["driver"], initrd().driver());
    let uvm = validation["modules"].as_array().unwrap().iter().find(|module| module["name"] == "nvidia_uvm");
    let uvm = uvm.unwrap();
    assert_eq!(uvm["sha256"], sha256_file(&ours.join("nvidia-uvm.ko")).unwrap());
    assert!(uvm["vermagic"].as_str().unwrap().starts_with(&format!("{} ", initrd().release())));
    assert_eq!(uvm["depends"][0], "nvidia");

    let page = place.server.uri();
    let url = format!("{page}/onkernel/linux/releases/download/{{kernel}}/nvidia-modules-{{arch}}.tar.gz");
    place.edit_profile(&url, "m.tar.gz");
    let (out, _) = place.good(&["build-initrd", "--dry-run", "--json"]);
    assert_eq!(driver_files(&Manifest::from_json(out.as_bytes()).unwrap()), driver_files(&parts().manifest));
    place.good(&["build-initrd"]);
    assert!(place.path("out/initrd.img").exists());
}

#[test]
fn headers_in_another_directory_give_the_same_modules() {
    let (first, second) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    stub(&first.path().join("source"));
    stub(&second.path().join("source"));
    good(&build(first.path(), &headers(), &["--validation", "v.json"]));
    good(&build(second.path(), &copy_of_headers(&second.path().join("a copy")), &["--validation", "v.json"]));
    for name in ["m.tar.gz", "v.json"] {
        let digest = |dir: &TempDir| sha256_file(&dir.path().join(name)).unwrap();
        assert_eq!(digest(&first), digest(&second), "{name}");
    }
    let modules = unpacked(first.path(), "m.tar.gz");
    let name = headers().file_name().unwrap().to_str().unwrap().to_owned();
    let release = name.strip_prefix("linux-headers-").unwrap();
    assert!(modules.to_str().unwrap().contains(&format!("/{release}/")), "{}", modules.display());
    for name in ["nvidia", "nvidia-uvm", "nvidia-modeset", "nvidia-drm"] {
        let bytes = fs::read(modules.join(format!("{name}.ko"))).unwrap();
        let path = first.path().to_str().unwrap().as_bytes();
        assert!(
            !bytes.windows(path.len()).any(|window| window == path),
            "{name} names the build's directory"
        );
    }
    let left: Vec<_> =
        fs::read_dir(first.path().join("source")).unwrap().map(|e| e.unwrap().path()).collect();
    assert!(left.iter().all(|path| path.extension().is_none_or(|e| e != "o" && e != "ko")), "{left:?}");
}

#[test]
fn sign_file_and_openssl_make_the_same_signature() {
    let dir = TempDir::new().unwrap();
    stub(&dir.path().join("source"));
    key(dir.path());
    let copy = copy_of_headers(&dir.path().join("copy"));
    good(&build(dir.path(), &copy, &SIGNED));
    fs::rename(dir.path().join("m.tar.gz"), dir.path().join("by-kernel.tar.gz")).unwrap();
    // Without the kernel's program, openssl signs.
    fs::remove_file(copy.join("scripts/sign-file")).unwrap();
    good(&build(dir.path(), &copy, &SIGNED));
    let digest = |name: &str| sha256_file(&dir.path().join(name)).unwrap();
    assert_eq!(digest("m.tar.gz"), digest("by-kernel.tar.gz"));

    let module = unpacked(dir.path(), "m.tar.gz").join("nvidia.ko");
    let signed = fs::read(&module).unwrap();
    let trailer = signed.strip_suffix(b"~Module signature appended~\n").expect("it ends as the kernel wants");
    let (rest, info) = trailer.split_at(trailer.len() - 12);
    assert_eq!(info[..8], [0, 0, 2, 0, 0, 0, 0, 0]);
    let length = u32::from_be_bytes(info[8..].try_into().unwrap()) as usize;
    let (plain, signature) = rest.split_at(rest.len() - length);
    let verified = |plain: &[u8]| {
        fs::write(dir.path().join("plain"), plain).unwrap();
        fs::write(dir.path().join("signature"), signature).unwrap();
        let mut openssl = Command::new("openssl");
        openssl.args([
            "cms",
            "-verify",
            "-binary",
            "-inform",
            "DER",
            "-in",
            "signature",
            "-content",
            "plain",
        ]);
        openssl.args([
            "-certfile",
            "cert.pem",
            "-CAfile",
            "cert.pem",
            "-purpose",
            "any",
            "-out",
            "/dev/null",
        ]);
        openssl.current_dir(dir.path()).output().unwrap().status.success()
    };
    assert!(verified(plain), "the signature is not of this module and key");
    let mut altered = plain.to_vec();
    altered[plain.len() / 2] ^= 1;
    assert!(!verified(&altered), "the signature is good for anything");
}

#[test]
fn unusable_build_inputs_are_refused_and_leave_nothing() {
    let dir = TempDir::new().unwrap();
    stub(&dir.path().join("source"));
    key(dir.path());
    let refused = |headers: &Path, more: &[&str], path: &str, texts: &[&str]| {
        let mut command = Command::new(program());
        command
            .args(["build-modules", "--toolchain", "host", "--source", "source", "--headers"])
            .arg(headers);
        command.args(["--output", "m.tar.gz", "--quiet"]).args(more).current_dir(dir.path());
        let output = command.env("CC", path).stdin(Stdio::null()).output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{stderr}");
        for text in texts.iter().chain(&["error: ", "\n  what to do: "]) {
            assert!(stderr.contains(text), "{text:?} is not in: {stderr}");
        }
        assert!(!dir.path().join("m.tar.gz").exists());
    };
    refused(dir.path(), &[], "gcc", &["include/config/kernel.release", "linux-headers"]);
    refused(&headers(), &[], "no-such-compiler", &["no-such-compiler", "apt install gcc"]);
    let other = TempDir::new().unwrap();
    key(other.path());
    let theirs = other.path().join("cert.pem");
    let mixed = ["--sign-key", "key.pem", "--sign-cert", theirs.to_str().unwrap()];
    refused(&headers(), &mixed, "gcc", &["signing", "belong together"]);
    fs::remove_file(dir.path().join("source/drm.c")).unwrap();
    refused(&headers(), &[], "gcc", &["drm.o", "building the GPU's modules"]);
}
