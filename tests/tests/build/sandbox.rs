//! A directory for builds that a test may damage: its own cache, which links to the rig's, a
//! profile and a lock that can be altered, and an archive on this machine.

use std::{
    fs,
    path::PathBuf,
    process::{Command, Output, Stdio},
};

use host_builder::common::digest::sha256;
use host_builder::pins::lock::{Artifact, Lock, Set};
use host_builder::pins::profile::{DEFAULT, Profile};
use image::capability::Capability;
use rig::build::{default_initrd, program};
use tempfile::TempDir;

use super::archive::{Archive, SUITE};

/// The driver's package with its programs.
pub const PROGRAMS: &str = "nvidia-utils-580-server";
/// The driver's package with libcuda.
pub const LIBRARIES: &str = "libnvidia-compute-580-server";

/// What the image of the default options is made from when its modules are built.
pub fn image_sets() -> Vec<Set> {
    Set::image(&Capability::DEFAULT.into_iter().collect())
}

pub struct Sandbox {
    directory: TempDir,
    archive: Archive,
    lock: Lock,
    profile: String,
}

impl Sandbox {
    /// A place in which everything is as it should be.
    pub fn new() -> Self {
        let built = default_initrd();
        let directory = tempfile::Builder::new().prefix("gpu-rig-build-").tempdir().unwrap();
        let lock = Lock::read(&built.lock).unwrap().unwrap();
        let archive = Archive::serve(&offered(&lock));
        let profile = Profile::load(DEFAULT).unwrap().1;
        let profile = of_archive(&profile, &archive.uri());
        let mut sandbox = Self { directory, archive, lock, profile: String::new() };
        rig::build::borrow(&sandbox.path("cache")).unwrap();
        sandbox.set_profile(profile);
        // The archive is not signed, and no proxy of the machine's leads to it.
        let conf = "Acquire::AllowInsecureRepositories \"true\";\nAPT::Get::AllowUnauthenticated \"true\";\n\
                    Acquire::http::Proxy::127.0.0.1 \"DIRECT\";\nAcquire::Retries::Delay \"false\";\n";
        fs::write(sandbox.path("apt.conf"), conf).unwrap();
        sandbox
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub fn archive(&self) -> &Archive {
        &self.archive
    }

    /// What the archive has.
    pub fn offered() -> Vec<(Artifact, PathBuf)> {
        offered(&Lock::read(&default_initrd().lock).unwrap().unwrap())
    }

    /// The locked package of this name.
    pub fn artifact(&self, name: &str) -> Artifact {
        self.lock.artifact.iter().find(|artifact| artifact.name == name).unwrap().clone()
    }

    /// Changes the profile; the lock follows.
    pub fn edit_profile(&mut self, from: &str, to: &str) {
        self.set_profile(replaced(&self.profile, from, to));
    }

    fn set_profile(&mut self, text: String) {
        fs::write(self.path("profile.toml"), &text).unwrap();
        let digest = sha256(text.as_bytes());
        self.profile = text;
        self.edit_lock(|lock| lock.profile_sha256 = digest);
    }

    pub fn edit_lock(&mut self, edit: impl FnOnce(&mut Lock)) {
        edit(&mut self.lock);
        self.lock.stage(&self.path("initrd.lock")).unwrap().commit().unwrap();
    }

    /// The locked package of this name, for changing.
    pub fn edit_artifact(&mut self, name: &str, edit: impl FnOnce(&mut Artifact)) {
        self.edit_lock(|lock| {
            edit(lock.artifact.iter_mut().find(|artifact| artifact.name == name).unwrap());
        });
    }

    pub fn blob(&self, artifact: &Artifact) -> PathBuf {
        self.path("cache/blobs/sha256").join(&artifact.sha256)
    }

    /// Forgets that this package was ever fetched and unpacked.
    pub fn forget(&self, artifact: &Artifact) {
        fs::remove_file(self.blob(artifact)).unwrap();
        fs::remove_file(self.path("cache/trees").join(&artifact.sha256)).unwrap();
    }

    /// The directory with the GPU's modules, as copies.
    pub fn own_modules(&self) -> PathBuf {
        let entries = fs::read_dir(self.path("cache/modules")).unwrap().map(|entry| entry.unwrap().path());
        for link in entries {
            let original = fs::read_link(&link).unwrap();
            fs::remove_file(&link).unwrap();
            fs::create_dir(&link).unwrap();
            for file in fs::read_dir(original).unwrap().map(Result::unwrap) {
                fs::copy(file.path(), link.join(file.file_name())).unwrap();
            }
        }
        self.path("cache/modules")
    }

    /// `command` in this place, with this cache and this archive.
    pub fn prepare(&self, command: &mut Command) {
        command.current_dir(self.directory.path()).stdin(Stdio::null());
        command.env("GPU_INITRD_CACHE", self.path("cache")).env("APT_CONFIG", self.path("apt.conf"));
    }

    /// `build-initrd` with the profile of this place.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(program());
        command.args(["build-initrd", "--profile", "./profile.toml", "--payload", "files"]).args(arguments);
        self.prepare(&mut command);
        command
    }

    pub fn build(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// Builds, expects exit code 2 and an error that has all of `texts` and a remedy, and nothing
    /// half-written.
    pub fn refuses(&self, arguments: &[&str], texts: &[&str]) {
        let before = self.outputs();
        refused(&self.build(&[arguments, &["--quiet"]].concat()), texts);
        assert_eq!(self.outputs(), before, "outputs changed");
        self.nothing_is_half_made();
    }

    /// Whether there is an initrd, a kernel or anything next to them.
    pub fn outputs(&self) -> Vec<PathBuf> {
        let Ok(entries) = fs::read_dir(self.path("out")) else { return Vec::new() };
        entries.map(|entry| entry.unwrap().path()).collect()
    }

    /// No temporary file or directory is left, neither next to the outputs nor in the cache.
    pub fn nothing_is_half_made(&self) {
        let inside = walkdir::WalkDir::new(self.directory.path()).into_iter().map(Result::unwrap);
        let temporary = |name: &str| name.starts_with(".partial-") || name.starts_with(".gpu-initrd-");
        let left: Vec<_> = inside
            .filter(|entry| temporary(&entry.file_name().to_string_lossy()))
            .map(walkdir::DirEntry::into_path)
            .collect();
        assert!(left.is_empty(), "left behind: {left:?}");
    }

    /// The next build in this place makes the plan of the image that all tests use.
    pub fn next_build_is_good(&mut self) {
        let sound = Sandbox::new();
        self.lock = sound.lock.clone();
        let profile = sound.profile.replace(&sound.archive.uri(), &self.archive.uri());
        self.archive.offer(&Self::offered());
        self.archive.hold(None);
        self.set_profile(profile);
        let output = self.build(&["--dry-run", "--json"]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(output.stdout == super::content::manifest_bytes(&default_initrd().initrd), "another plan");
    }
}

/// The profile with one archive for the kernel, the tools and the driver: that at `uri`.
fn of_archive(profile: &str, uri: &str) -> String {
    let mut profile = profile.to_owned();
    for table in ["apt", "driver_apt"] {
        profile = replaced(&profile, &format!("[{table}]\n"), &format!("[{table}]\nuri = \"{uri}\"\n"));
    }
    for components in [
        r#"["main", "contrib", "non-free", "non-free-firmware"]"#,
        r#"["main", "restricted", "universe", "multiverse"]"#,
    ] {
        profile = replaced(&profile, components, r#"["main"]"#);
    }
    for suite in ["trixie-backports", "trixie", "noble-updates"] {
        profile = replaced(&profile, &format!("suite = \"{suite}\"\n"), &format!("suite = \"{SUITE}\"\n"));
    }
    replaced(&profile, "base_suites = [\"noble\"]\n", "")
}

fn offered(lock: &Lock) -> Vec<(Artifact, PathBuf)> {
    let cache = rig::build::cache().unwrap();
    let needed = lock.sets(&image_sets()).into_iter();
    needed.map(|artifact| (artifact.clone(), cache.blob(&artifact.sha256).unwrap())).collect()
}

/// Expects exit code 2, all of `texts` and a remedy, and nothing else: the run was to be quiet.
pub fn refused(output: &Output, texts: &[&str]) {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    for text in texts {
        assert!(stderr.contains(text), "{text:?} is not in: {stderr}");
    }
    assert!(stderr.starts_with("error: ") && stderr.contains("\n  what to do: "), "{stderr}");
    assert!(output.stdout.is_empty(), "{}", String::from_utf8_lossy(&output.stdout));
}

/// `text` with `from`, which must be in it, replaced.
pub fn replaced(text: &str, from: &str, to: &str) -> String {
    assert!(text.contains(from), "{from:?} is not in the profile");
    text.replace(from, to)
}
