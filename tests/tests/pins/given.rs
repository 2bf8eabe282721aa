//! `build-modules` with sources and headers in every common form, as an ordinary user: laid out as
//! NVIDIA's, with the stub driver in place of NVIDIA's own files, since those take minutes to
//! compile.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, chown},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use rig::{build::program, process::run};
use tempfile::TempDir;

use super::{
    modules::{copy_of_headers, key, stub},
    place::{installer, parts},
};

/// `nobody`.
const USER: u32 = 65534;
const PASSPHRASE: &str = "a passphrase with spaces";

/// What another user has: a home, the program, headers whose common part is elsewhere, and keys.
struct Home {
    directory: TempDir,
    headers: PathBuf,
}

impl Home {
    fn new() -> Self {
        let directory = tempfile::Builder::new().prefix("gpu-rig-given-").tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
        fs::copy(program(), path("host-builder")).unwrap();
        let headers = copy_of_headers(&path("headers"));
        let common = fs::read_dir(path("headers/usr/src")).unwrap().map(|entry| entry.unwrap().path());
        let common = common.filter(|path| path.to_str().unwrap().ends_with("-common")).last().unwrap();
        // Its links lead to programs next to it.
        let other = path("the other part/usr");
        fs::create_dir_all(other.join("src")).unwrap();
        run(Command::new("cp").arg("-a").arg(path("headers/usr/lib")).arg(&other)).unwrap();
        fs::rename(&common, other.join("src/common")).unwrap();
        key(directory.path());
        let mut openssl = Command::new("openssl");
        openssl.args(["pkcs8", "-topk8", "-in", "key.pem", "-out", "encrypted.pem", "-passout"]);
        run(openssl.arg(format!("pass:{PASSPHRASE}")).current_dir(directory.path())).unwrap();
        for name in ["home", "tmp"] {
            fs::create_dir(path(name)).unwrap();
        }
        Self { directory, headers }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Builds as that user: really, where we are root, else as another one in a user namespace.
    fn build(&self, source: &str, pin: Option<&str>, more: &[&str]) -> Output {
        let mut command = Command::new("setpriv");
        if nix::unistd::geteuid().is_root() {
            for entry in walkdir::WalkDir::new(self.directory.path()) {
                std::os::unix::fs::lchown(entry.unwrap().path(), Some(USER), Some(USER)).unwrap();
            }
            chown(self.directory.path(), Some(USER), Some(USER)).unwrap();
            command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]);
        } else {
            command = Command::new("unshare");
            command.args(["--user", "--map-user=65534", "--map-group=65534"]);
        }
        command.args(["sh", "-c", "umask 077; exec \"$@\"", "sh"]).arg(self.path("host-builder"));
        command
            .args(["build-modules", "--toolchain", "host", "--source", source, "--headers"])
            .arg(&self.headers);
        command
            .args(["--headers-common", "the other part/usr/src/common", "--output", "m.tar.gz", "--quiet"])
            .args(more);
        command.current_dir(self.directory.path()).env_clear().env("HOME", self.path("home"));
        command.env("PATH", "/usr/bin:/bin:/usr/sbin:/sbin").env("TMPDIR", self.path("tmp"));
        command.envs(pin.map(|pin| ("KBUILD_SIGN_PIN", pin)));
        command.stdin(Stdio::null()).output().unwrap()
    }

    /// Builds, and returns the directory with the modules.
    fn built(&self, source: &str, pin: Option<&str>, more: &[&str]) -> PathBuf {
        let output = self.build(source, pin, more);
        assert!(output.status.success(), "{source}: {}", String::from_utf8_lossy(&output.stderr));
        let to = self.path(&format!("{source}.built"));
        fs::create_dir(&to).unwrap();
        run(Command::new("tar").arg("-C").arg(&to).arg("-xzf").arg(self.path("m.tar.gz"))).unwrap();
        fs::remove_file(self.path("m.tar.gz")).unwrap();
        let release = fs::read_dir(to.join("lib/modules")).unwrap().next().unwrap().unwrap();
        let modules = release.path().join("kernel/drivers/gpu");
        for name in ["nvidia", "nvidia-uvm", "nvidia-modeset", "nvidia-drm"] {
            assert!(modules.join(format!("{name}.ko")).is_file(), "{source}: {name}");
        }
        modules
    }

    fn refuses(&self, pin: Option<&str>, more: &[&str], texts: &[&str]) {
        let output = self.build("repository", pin, more);
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{stderr}");
        for text in texts.iter().chain(&["error: ", "\n  what to do: "]) {
            assert!(stderr.contains(text), "{text:?} is not in: {stderr}");
        }
        assert!(!self.path("m.tar.gz").exists());
    }
}

/// NVIDIA's repository: `make modules` at its root makes the common part, then the modules.
fn repository(at: &Path) {
    stub(&at.join("kernel-open"));
    for part in ["src/nvidia", "src/nvidia-modeset"] {
        fs::create_dir_all(at.join(part)).unwrap();
        fs::write(at.join(part).join("Makefile"), "all:\n\tmkdir -p _out && echo made > _out/part.o\n")
            .unwrap();
    }
    let makefile = "modules: src/nvidia/_out/part.o src/nvidia-modeset/_out/part.o\n\t$(MAKE) -C kernel-open modules\n\
                    src/%/_out/part.o:\n\t$(MAKE) -C src/$*\n.PHONY: modules\n";
    fs::write(at.join("Makefile"), makefile).unwrap();
}

/// NVIDIA's installer, unpacked: closed modules next to the open ones, which have their common part
/// compiled.
fn unpacked_installer(at: &Path) {
    stub(&at.join("kernel-open"));
    fs::create_dir_all(at.join("kernel-open/nvidia")).unwrap();
    fs::write(at.join("kernel-open/nvidia/nv-kernel.o_binary"), "x").unwrap();
    fs::create_dir(at.join("kernel")).unwrap();
    for file in ["kernel/Kbuild", "kernel/Makefile"] {
        fs::write(at.join(file), "$(error these are the closed modules)\n").unwrap();
    }
    fs::write(at.join("nvidia-installer"), "#!/bin/sh\nexit 1\n").unwrap();
}

/// The module without its signature, and the signature.
fn taken_apart(signed: &[u8]) -> (&[u8], &[u8]) {
    let rest = signed.strip_suffix(b"~Module signature appended~\n").expect("it is signed");
    let (rest, info) = rest.split_at(rest.len() - 12);
    rest.split_at(rest.len() - u32::from_be_bytes(info[8..].try_into().unwrap()) as usize)
}

#[test]
fn every_nvidia_source_builds_as_an_ordinary_user() {
    let home = Home::new();
    repository(&home.path("repository"));
    let name = "open-gpu-kernel-modules-550.163.01";
    let mut tar = Command::new("tar");
    tar.arg("-C").arg(home.path("repository")).arg("-czf").arg(home.path("repository.tar.gz"));
    run(tar.arg(format!("--transform=s#^[.]#{name}#")).arg(".")).unwrap();
    parts();
    unpacked_installer(&home.path("unpacked"));
    installer(&home.path("unpacked"), &home.path("NVIDIA-Linux-x86_64-550.163.01.run"), "--xz");

    let sign = ["--sign-key", "encrypted.pem", "--sign-cert", "cert.pem", "--sign-hash", "sha512"];
    home.refuses(None, &sign, &["encrypted.pem is encrypted", "KBUILD_SIGN_PIN", "read -rs"]);
    home.refuses(Some("wrong"), &sign, &["signing", "KBUILD_SIGN_PIN"]);
    let signed = home.built("repository", Some(PASSPHRASE), &sign);
    let module = fs::read(signed.join("nvidia.ko")).unwrap();
    let (plain, signature) = taken_apart(&module);
    fs::write(home.path("plain"), plain).unwrap();
    fs::write(home.path("signature"), signature).unwrap();
    let openssl = |words: &str| {
        let mut openssl = Command::new("openssl");
        let output = run(openssl.args(words.split(' ')).current_dir(home.directory.path())).unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    openssl(
        "cms -verify -binary -inform DER -in signature -content plain -certfile cert.pem -CAfile cert.pem -purpose any -out checked",
    );
    let printed = openssl("cms -cmsout -print -inform DER -in signature");
    assert!(printed.contains("sha512") && !printed.contains("sha256 "), "{printed}");
    assert!(!home.path("repository/src/nvidia/_out").exists(), "the source was written to");

    let of_archive = home.built("repository.tar.gz", None, &[]);
    let of_installer = home.built("NVIDIA-Linux-x86_64-550.163.01.run", None, &[]);
    for modules in [of_archive, of_installer] {
        let text = fs::read_to_string(modules.join("nvidia-modules.json")).unwrap();
        let facts: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(
            (facts["driver"].as_str(), facts["modules"][0]["signed"].as_bool()),
            (Some("550.163.01"), Some(false))
        );
        let release = facts["kernel_release"].as_str().unwrap();
        assert!(home.headers.ends_with(format!("linux-headers-{release}")), "{release}");
    }
    let left: Vec<_> = fs::read_dir(home.path("tmp")).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
}

/// Headers of packages, in the profile's own toolroot.
#[test]
fn headers_package_resolves_to_the_current_archive() {
    let dir = TempDir::new().unwrap();
    stub(&dir.path().join("source"));
    let mut command = Command::new(program());
    command.args([
        "build-modules",
        "--source",
        "source",
        "--headers-package",
        "linux-headers-amd64",
        "--quiet",
        "--json",
    ]);
    command.args(["--output", "m.tar.gz", "--lock"]).arg(&rig::build::initrd().lock);
    let output = command.current_dir(dir.path()).stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let release = report["validation"]["kernel_release"].as_str().unwrap();
    assert!(release.ends_with("-amd64") && !release.contains("cloud"), "{release}");
    assert!(report["validation"]["modules"][0]["vermagic"].as_str().unwrap().starts_with(release));
}
