//! The files of a release, made once, and places to use them in.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::OnceLock,
};

use host_builder::initramfs::cpio::kind;
use host_builder::pins::lock::{Artifact, Lock};
use host_builder::pins::profile::Profile;
use host_builder::programs::tools::{Toolroot, Tools};
use image::{
    layout,
    manifest::{Kind, Manifest},
};
use rig::{
    build::{initrd, program},
    process::run,
    roots::{Recipe, Suite},
    variant::{Variant, manifest},
};
use tempfile::TempDir;

use super::server::Server;

/// The profile that the tool carries for a release page.
pub const PROFILE: &str = "ch-6.12.8-kernel-2-20251211";

/// What the files of a release are made from: the image of the default profile.
pub struct Parts {
    directory: TempDir,
    /// The image's manifest.
    pub manifest: Manifest,
}

impl Parts {
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Packs a directory as the release page does.
    pub fn tar(&self, from: &str, to: &Path) {
        let mut tar = Command::new("tar");
        tar.env("GZIP", "-1").arg("-C").arg(self.path(from)).arg("-czf").arg(to).arg(".");
        run(&mut tar).unwrap();
    }
}

/// Programs of Debian that make archives.
pub fn makers() -> &'static Toolroot {
    static MAKERS: OnceLock<Toolroot> = OnceLock::new();
    MAKERS.get_or_init(|| {
        let root = Recipe::minbase(Suite::Trixie)
            .with(&["makeself", "rpm", "xz-utils", "zstd"])
            .directory()
            .unwrap();
        Toolroot::at(&root).unwrap()
    })
}

/// An installer around a directory, as makeself makes it.
pub fn installer(from: &Path, to: &Path, compression: &str) {
    let mut makeself = makers().command("makeself", &[from.to_owned(), to.parent().unwrap().to_owned()]);
    makeself.args(["--nox11", "--tar-extra", "--owner=0", compression]).arg(from).arg(to);
    makeself.args(["NVIDIA Accelerated Graphics Driver", "./nvidia-installer"]);
    run(&mut makeself).unwrap();
}

pub fn parts() -> &'static Parts {
    static PARTS: OnceLock<Parts> = OnceLock::new();
    PARTS.get_or_init(|| {
        let directory = tempfile::Builder::new().prefix("gpu-rig-release-").tempdir().unwrap();
        for (entry, content) in Variant::of(&initrd().initrd).unwrap().entries() {
            let Some(place) = place(&format!("/{}", String::from_utf8_lossy(&entry.name))) else { continue };
            let place = directory.path().join(place);
            fs::create_dir_all(place.parent().unwrap()).unwrap();
            match entry.mode & kind::MASK {
                kind::FILE => {
                    fs::write(&place, content).unwrap();
                    fs::set_permissions(&place, fs::Permissions::from_mode(entry.mode & 0o777)).unwrap();
                }
                kind::LINK => symlink(std::str::from_utf8(content).unwrap(), &place).unwrap(),
                _ => {}
            }
        }
        let parts = Parts { directory, manifest: manifest(&initrd().initrd).unwrap() };
        parts.tar("modules", &parts.path("modules.tar.gz"));
        parts.tar("libs", &parts.path("libs.tar.gz"));
        installer(&parts.path("installer"), &parts.path("installer.run"), "--gzip");
        parts
    })
}

/// Where a file of the image is in a release: modules, driver files, and firmware in the installer.
fn place(path: &str) -> Option<String> {
    let file = path.rsplit('/').next()?;
    if path.starts_with("/lib/modules/") && path.contains("/nvidia") && path.ends_with(".ko") {
        return Some(format!("modules{path}"));
    }
    if path.starts_with("/lib/firmware/nvidia/") && path.ends_with(".bin") {
        return Some(format!("installer/firmware/{file}"));
    }
    let program = path.starts_with("/usr/bin/");
    if let Some(data) = path.strip_prefix(layout::DRIVER_DATA_DIR) {
        return (!file.is_empty() && file.contains('.')).then(|| format!("libs{data}"));
    }
    (program || path.starts_with(layout::DRIVER_LIB_DIR) && file.contains(".so"))
        .then(|| format!("libs{path}"))
}

/// Path, digest and capabilities of every file that belongs to the driver; links by what they lead
/// to.
pub fn driver_files(manifest: &Manifest) -> Vec<(String, String, usize)> {
    let of_driver = manifest.files.iter().filter(|file| {
        !file.capabilities.is_empty() || file.path.contains("/nvidia") && file.path.starts_with("/lib/")
    });
    let files = of_driver.filter_map(|file| {
        let what = match &file.kind {
            Kind::File { sha256, .. } => sha256.clone(),
            Kind::Link { target } => target.clone(),
            Kind::Directory => return None,
        };
        Some((file.path.clone(), what, file.capabilities.len()))
    });
    files.collect()
}

/// A directory to work in, with a cache of its own and a server with the files of the release.
pub struct Place {
    directory: TempDir,
    pub server: Server,
    profile: String,
}

impl Place {
    /// Everything is as the release page has it.
    pub fn new() -> Self {
        let directory = tempfile::Builder::new().prefix("gpu-rig-pins-").tempdir().unwrap();
        let place = Self { directory, server: Server::start(), profile: String::new() };
        place.release(tag(), &parts().path("libs.tar.gz"), &parts().path("modules.tar.gz"));
        let driver = initrd().driver();
        let run = format!("/nvidia/XFree86/Linux-x86_64/{driver}/NVIDIA-Linux-x86_64-{driver}.run");
        place.server.offer(&run, Some(&parts().path("installer.run")));
        let text = Profile::load(PROFILE).unwrap().1;
        let mut place = place;
        place.set_profile(text);
        place.edit_profile("driver = \"570.86.16\"", &format!("driver = \"{driver}\""));
        let uri = place.server.uri();
        place.edit_profile("https://github.com", &uri);
        place.edit_profile("https://us.download.nvidia.com", &format!("{uri}/nvidia"));
        // Debian's kernel stands in for the release's: its modules are not there, so they count as
        // built in.
        place.edit_profile(
            "builtin = [",
            "builtin = [\"drm\", \"drm_kms_helper\", \"ecdh_generic\", \"ecdsa_generic\", ",
        );
        place
    }

    /// Puts a release on the page.
    pub fn release(&self, tag: &str, libs: &Path, modules: &Path) {
        let base = format!("/onkernel/linux/releases/download/{tag}");
        self.server.offer(&format!("{base}/vmlinux-x86_64"), Some(&initrd().kernel));
        self.server.offer(&format!("{base}/nvidia-modules-x86_64.tar.gz"), Some(modules));
        self.server.offer(&format!("{base}/nvidia-driver-libs-x86_64.tar.gz"), Some(libs));
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub fn edit_profile(&mut self, from: &str, to: &str) {
        assert!(self.profile.contains(from), "{from:?} is not in the profile");
        self.set_profile(self.profile.replace(from, to));
    }

    pub fn set_profile(&mut self, text: String) {
        fs::write(self.path("profile.toml"), &text).unwrap();
        self.profile = text;
    }

    /// `host-builder` here; words that begin with `pins` or `build-initrd` get profile and lock of
    /// this place.
    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(program());
        command.args(words).args(["--profile", "./profile.toml", "--lock", "r.lock"]);
        self.prepare(&mut command);
        command
    }

    pub fn prepare(&self, command: &mut Command) {
        command.current_dir(self.directory.path()).stdin(Stdio::null());
        command.env("GPU_INITRD_CACHE", self.path("cache")).env("NO_PROXY", "127.0.0.1");
    }

    pub fn run(&self, words: &[&str]) -> Output {
        self.command(words).output().unwrap()
    }

    /// Runs it, expects success, and returns standard output and standard error.
    pub fn good(&self, words: &[&str]) -> (String, String) {
        let output = self.run(words);
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        let (out, err) = (text(output.stdout), text(output.stderr));
        assert!(output.status.success(), "{words:?}: {out}{err}");
        (out, err)
    }

    /// Runs it, expects exit code 2 with a remedy, all of `texts`, and the lock as it was.
    pub fn refuses(&self, words: &[&str], texts: &[&str]) {
        let before = fs::read(self.path("r.lock")).ok();
        let output = self.run(words);
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{words:?}: {stderr}");
        for text in texts.iter().chain(&["error: ", "\n  what to do: "]) {
            assert!(stderr.contains(text), "{text:?} is not in: {stderr}");
        }
        assert_eq!(fs::read(self.path("r.lock")).ok(), before, "the lock has changed");
    }

    pub fn lock(&self) -> Lock {
        Lock::read(&self.path("r.lock")).unwrap().unwrap()
    }

    pub fn artifact(&self, name: &str) -> Artifact {
        self.lock().artifact.into_iter().find(|artifact| artifact.name == name).unwrap()
    }
}

/// The release that the profile names.
pub fn tag() -> &'static str {
    PROFILE
}

/// The address of a file of the release, on its server.
pub fn address(file: &str) -> String {
    format!("/onkernel/linux/releases/download/{}/{file}", tag())
}
