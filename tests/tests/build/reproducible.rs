//! The same lock produces the same bytes: another user, another home, another directory, another
//! umask and time zone, everything unpacked anew, and the GPU's modules compiled anew.

use std::{
    fs,
    os::unix::fs::chown,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use host_builder::artifacts::cache::Cache;
use host_builder::common::digest::{sha256, sha256_file};
use host_builder::common::ui::Ui;
use host_builder::kernel_modules::make::recipe;
use host_builder::pins::lock::{Lock, Set};
use host_builder::pins::profile::{DEFAULT, Profile};
use host_builder::programs::toolroot::Toolroot;
use rig::{
    build::{default_initrd, default_with, program},
    record::not_run,
};

/// `nobody`.
const USER: u32 = 65534;
/// Name and digest of each of the GPU's modules in a cache, which has been used for one lock.
fn modules(cache: &Path) -> String {
    let mut lines: Vec<_> = walkdir::WalkDir::new(cache.join("modules").canonicalize().unwrap())
        .into_iter()
        .map(Result::unwrap)
        .filter(|entry| entry.file_type().is_file())
        .map(|entry| format!("{} {}\n", entry.file_name().display(), sha256_file(entry.path()).unwrap()))
        .collect();
    lines.sort();
    assert!(lines.len() >= 4, "{lines:?}");
    lines.concat()
}

/// A home with a cache in which nothing but downloads is.
struct Other {
    directory: tempfile::TempDir,
}

impl Other {
    fn new(lock: &Lock) -> Self {
        let directory = tempfile::Builder::new().prefix("gpu-rig-other-").tempdir().unwrap();
        let other = Self { directory };
        let blobs = other.cache().join("blobs/sha256");
        fs::create_dir_all(&blobs).unwrap();
        fs::create_dir_all(other.path("a directory")).unwrap();
        let cache = rig::build::cache().unwrap();
        let sets =
            [super::sandbox::image_sets(), vec![Set::ModuleSource, Set::Toolroot, Set::Payload]].concat();
        for artifact in lock.sets(&sets) {
            fs::copy(cache.blob(&artifact.sha256).unwrap(), blobs.join(&artifact.sha256)).unwrap();
        }
        // The machine's own one may be where this user cannot go.
        fs::copy(program(), other.path("host-builder")).unwrap();
        other
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn cache(&self) -> PathBuf {
        self.path("home/.cache/gpu-initrd")
    }

    /// Builds as another user: really, where we are root, else as another one in a user namespace.
    fn build(&self) {
        let directory = self.path("a directory");
        let mut command = Command::new("setpriv");
        if nix::unistd::geteuid().is_root() {
            for entry in walkdir::WalkDir::new(self.directory.path()) {
                chown(entry.unwrap().path(), Some(USER), Some(USER)).unwrap();
            }
            command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]);
        } else {
            command = Command::new("unshare");
            command.args(["--user", "--map-user=65534", "--map-group=65534"]);
        }
        command.args(["sh", "-c", "umask 077; exec \"$@\"", "sh"]).arg(self.path("host-builder"));
        command.args(["build-initrd", "--quiet", "--output", "i.img", "--kernel-output", "k"]);
        command.current_dir(directory).env_clear().env("HOME", self.path("home"));
        command
            .env("PATH", "/usr/bin:/bin:/usr/sbin:/sbin")
            .env("TZ", "Asia/Kathmandu")
            .env("USER", "nobody");
        let output = command.stdin(Stdio::null()).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
fn another_user_in_another_directory_gets_the_same_bytes() {
    let first = default_with(&[]);
    let lock = Lock::read(&first.lock).unwrap().unwrap();
    let other = Other::new(&lock);
    fs::copy(&first.lock, other.path("a directory/initrd.lock")).unwrap();

    // Compiling takes minutes: it is done once for everything that goes in, to the last byte, and
    // what comes out.
    let rig = rig::build::cache().unwrap();
    let (key, ours) = modules_of_the_first();
    let profile = Profile::load(DEFAULT).unwrap().0;
    let recipe = recipe(&rig, &lock, &profile.modules, compiler(&rig, &lock, &profile)).unwrap();
    let digest = sha256([recipe, ours.clone()].concat().as_bytes());
    let record = rig.room("rig/reproduced").unwrap().join(&digest[..16]);
    let compiled_before = record.exists();
    if compiled_before {
        let (from, to) = (rig.room("modules").unwrap().join(&key), other.cache().join("modules").join(&key));
        fs::create_dir_all(&to).unwrap();
        for file in fs::read_dir(from).unwrap().map(Result::unwrap) {
            fs::copy(file.path(), to.join(file.file_name())).unwrap();
        }
    }
    other.build();

    assert_eq!(modules(&other.cache()), ours, "the modules differ");
    let same = |name: &str| sha256_file(&other.path("a directory").join(name)).unwrap();
    assert_eq!(same("i.img"), first.sha256());
    assert_eq!(same("k"), sha256_file(&first.kernel).unwrap());
    assert_eq!(same("initrd.lock"), sha256_file(&first.lock).unwrap());
    if compiled_before {
        let why = "the same source, programs, commands and environment gave the same bytes before, as";
        not_run("compiling NVIDIA's modules a second time", &format!("{why} {} says", record.display()));
    } else {
        fs::write(record, ours).unwrap();
    }
}

/// The toolroot that the modules of the image were compiled in.
fn compiler(cache: &Cache, lock: &Lock, profile: &Profile) -> Toolroot {
    let links = profile.toolroot.as_ref().unwrap().links.clone();
    Toolroot::of(cache, lock, Set::Toolroot, &links, &Ui::new(true)).unwrap()
}

/// The cache's name of the modules in the image, and their digests.
fn modules_of_the_first() -> (String, String) {
    let manifest = super::content::manifest_bytes(&default_initrd().initrd);
    let manifest = String::from_utf8(manifest).unwrap();
    let room = rig::build::cache().unwrap().room("modules").unwrap();
    let entries = fs::read_dir(room).unwrap().map(|entry| entry.unwrap().path());
    let mut found = entries.filter(|directory| {
        directory.is_dir() && manifest.contains(&sha256_file(&directory.join("nvidia.ko")).unwrap())
    });
    let directory = found.next().expect("the modules of the image are in the cache");
    let key = directory.file_name().unwrap().to_str().unwrap().to_owned();
    let only = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink(&directory, only.path().join("modules")).unwrap();
    (key, modules(&only.path().canonicalize().unwrap()))
}
