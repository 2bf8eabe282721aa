//! The initrd that the tests boot. It is made by the real `host-builder` from the real packages,
//! once for a state of the sources and of the lock.
//!
//! The lock is the rig's own and is kept in the user's cache directory: the tests use the same
//! artifacts every time, and are quick once these are in the cache. When the archive no longer
//! offers one of them, the profile is resolved again, which is reported.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::{Mutex, OnceLock, PoisonError},
    time::SystemTime,
};

use host_builder::artifacts::cache::Cache;
use host_builder::common::digest::{sha256, sha256_file};
use host_builder::pins::profile::DEFAULT;

use crate::{
    RigError,
    process::{run, tail},
};

/// The profile of the guests: its driver is half as large as the default one, and guests with it need less time and memory. The default
/// driver is in guests of their own (tests/tests/pairs.rs).
pub const GUESTS: &str = "debian-13+550";
/// Number of builds that are kept although no test uses them, each about 130 MB.
const KEPT: usize = 6;
/// File name of the driver's disk in a build.
const DISK: &str = "driver.erofs";
/// Target triple of a guest's programs.
const TARGET: &str = "x86_64-unknown-linux-musl";
/// Settings of the profile that makes guest-init small, for one that is built quickly.
const QUICK: [&str; 3] =
    ["profile.init.opt-level=1", "profile.init.lto=\"off\"", "profile.init.codegen-units=16"];
/// Text of the remedy for a lock that can no longer be used.
const OUTDATED: &str = "--update-lock";

/// A finished build. Its files belong to all tests: read only.
#[derive(Clone, Debug)]
pub struct Built {
    /// The initrd.
    pub initrd: PathBuf,
    /// The kernel image.
    pub kernel: PathBuf,
    /// The driver's disk, where the options ask for one.
    pub disk: Option<PathBuf>,
    /// The lock it was made from.
    pub lock: PathBuf,
    /// The report of `build-initrd --json`.
    pub report: serde_json::Value,
}

impl Built {
    /// Release of the kernel, as `uname -r` prints it in the guest.
    pub fn release(&self) -> &str {
        self.text("kernel_release")
    }

    /// Full version of the driver.
    pub fn driver(&self) -> &str {
        self.text("driver")
    }

    /// SHA-256 of the initrd, lower-case hex.
    pub fn sha256(&self) -> &str {
        self.text("initrd_sha256")
    }

    fn text(&self, key: &str) -> &str {
        self.report[key].as_str().unwrap_or_else(|| panic!("the report has no text {key:?}: {}", self.report))
    }
}

/// The initrd of the default profile with the driver as plain files. Panics, naming the cause, when it cannot be built.
pub fn default_initrd() -> &'static Built {
    static BUILT: OnceLock<Built> = OnceLock::new();
    BUILT.get_or_init(|| default_with(&["--payload", "files"]))
}

/// The initrd of the default profile with these options of `build-initrd`. Panics, naming the cause, when it cannot be built.
pub fn default_with(options: &[&str]) -> Built {
    build(DEFAULT, options, None).unwrap_or_else(|error| panic!("no initrd to test: {error:?}"))
}

/// The initrd of guests with the driver as plain files, which tests can replace. Panics, naming the cause, when it cannot be built.
pub fn initrd() -> &'static Built {
    static BUILT: OnceLock<Built> = OnceLock::new();
    BUILT.get_or_init(|| initrd_with(&["--payload", "files"]))
}

/// The initrd of guests whose driver is on a disk: the quickest to boot with a GPU. Panics, naming the cause, when it cannot be built.
pub fn initrd_for_disk() -> &'static Built {
    static BUILT: OnceLock<Built> = OnceLock::new();
    BUILT.get_or_init(|| initrd_with(&["--payload", "disk"]))
}

/// The initrd of guests with these options of `build-initrd`. Panics, naming the cause, when it cannot be built.
pub fn initrd_with(options: &[&str]) -> Built {
    build(GUESTS, options, None).unwrap_or_else(|error| panic!("no initrd to test: {error:?}"))
}

/// The real `host-builder`, built from this workspace with the settings of these tests. Panics if
/// it does not exist.
pub fn program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        // Cargo builds a package's programs before its tests, which are in a directory next to
        // them. The rig's own programs are beside it.
        let this = std::env::current_exe().expect("a test is a file");
        let found = this.ancestors().skip(1).take(2).map(|at| at.join("host-builder-in-tests"));
        let mut found = found;
        let found = found.find(|program| program.is_file());
        found.unwrap_or_else(|| panic!("no host-builder-in-tests near {}: run it with cargo", this.display()))
    })
}

/// guest-init with failures on demand, which no image of a user has. Panics, naming the cause, when
/// it cannot be built.
pub fn faulty_guest_init() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        compile_faulty().unwrap_or_else(|error| panic!("no guest-init with faults: {error:?}"))
    })
}

/// The cache that [`initrd`] was built with.
pub fn cache() -> Result<Cache, RigError> {
    Ok(Cache::open()?)
}

fn compile_faulty() -> Result<PathBuf, RigError> {
    // Not the directory of `cargo build`, whose guest-init is meant for use.
    let target = program().ancestors().nth(2).unwrap_or(Path::new("/")).join("fault-injection");
    let mut cargo = Command::new(env!("CARGO"));
    cargo.current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
    cargo.args(["build", "--locked", "--package", "guest-init", "--bin", "guest-init"]);
    cargo.args(["--features", "fault-injection", "--profile", "init", "--target", TARGET]);
    cargo.args(QUICK.map(|setting| ["--config", setting]).concat()).arg("--target-dir").arg(&target);
    // The variables that cargo sets for a test describe the test's package, and would mislead
    // another cargo.
    for (variable, _) in std::env::vars_os().filter(|(name, _)| is_cargos_own(&name.to_string_lossy())) {
        cargo.env_remove(variable);
    }
    // It is for the test harness; dependencies would be built again for it.
    cargo.env_remove("RUSTC_BOOTSTRAP");
    run(&mut cargo)?;
    Ok(target.join(TARGET).join("init/guest-init"))
}

fn is_cargos_own(variable: &str) -> bool {
    ["CARGO_PKG_", "CARGO_BIN_", "CARGO_MANIFEST_", "CARGO_CRATE_", "CARGO_PRIMARY_"]
        .iter()
        .any(|prefix| variable.starts_with(prefix))
}

/// A cache for a build other than the user's, and a digest of everything that differs in it.
#[derive(Clone, Copy, Debug)]
pub struct Cached<'a> {
    /// The directory.
    pub place: &'a Path,
    /// A digest.
    pub key: &'a str,
}

/// Links everything of the user's cache that an image is made from into another one: what a test
/// removes or replaces there stays in the user's cache.
pub fn borrow(place: &Path) -> Result<(), RigError> {
    let own = cache()?;
    for room in ["blobs/sha256", "trees", "modules", "module-index", "toolroots"] {
        let (from, to) = (own.room(room)?, place.join(room));
        fs::create_dir_all(&to).map_err(|e| RigError::io("create", &to, e))?;
        let entries = fs::read_dir(&from).map_err(|e| RigError::io("list", &from, e))?.filter_map(Result::ok);
        // Another test may be making an entry: it has a temporary name until it is complete.
        for entry in entries.filter(|entry| !entry.file_name().to_string_lossy().starts_with('.')) {
            let link = to.join(entry.file_name());
            symlink(entry.path(), &link).map_err(|e| RigError::io("link", &link, e))?;
        }
    }
    Ok(())
}

/// The initrd of a built-in profile with these options of `build-initrd`.
pub fn build(profile: &str, options: &[&str], cached: Option<Cached>) -> Result<Built, RigError> {
    let options = &[&["--profile", profile], options].concat()[..];
    let cache = cache()?;
    let builds = cache.room("rig/builds")?;
    let lock = cache.room("rig")?.join(format!("{profile}.lock"));
    // Other test processes wait here for the build that they would otherwise repeat.
    let _one_at_a_time = cache.lock("rig-build")?;
    let more = cached.map_or("", |cached| cached.key);
    if let Some(built) = finished(&builds, &lock, options, more)? {
        hold(built.initrd.parent().unwrap_or(&builds))?;
        return Ok(built);
    }
    let work = tempfile::Builder::new().prefix(".new-").tempdir_in(&builds);
    let work = work.map_err(|e| RigError::io("make a directory in", &builds, e))?;
    let mut output = build_initrd(&lock, work.path(), options, cached)?;
    if !output.status.success() && String::from_utf8_lossy(&output.stderr).contains(OUTDATED) {
        eprintln!(
            "the rig's lock {} is outdated, resolving again: {}",
            lock.display(),
            String::from_utf8_lossy(&output.stderr)
        );
        output = build_initrd(&lock, work.path(), &[options, &[OUTDATED]].concat(), cached)?;
    }
    if !output.status.success() {
        return Err(RigError::Failed {
            program: "host-builder build-initrd".into(),
            status: output.status,
            output: tail(&String::from_utf8_lossy(&output.stderr)).to_owned(),
        });
    }
    let report = work.path().join("report.json");
    fs::write(&report, &output.stdout).map_err(|e| RigError::io("write", &report, e))?;
    let place = builds.join(key(&lock, options, more)?);
    fs::rename(work.path(), &place).map_err(|e| RigError::io("rename to", &place, e))?;
    hold(&place)?;
    forget(&builds)?;
    finished(&builds, &lock, options, more)?.ok_or_else(|| RigError::Missing {
        what: place.display().to_string(),
        remedy: "the build was made and is gone".into(),
    })
}

fn build_initrd(
    lock: &Path,
    directory: &Path,
    more: &[&str],
    cached: Option<Cached>,
) -> Result<Output, RigError> {
    let mut command = Command::new(program());
    command.envs(cached.map(|cached| ("GPU_INITRD_CACHE", cached.place)));
    command.args(["build-initrd", "--json", "--lock"]).arg(lock).args(more);
    command.arg("--output").arg(directory.join("initrd.img"));
    command.arg("--kernel-output").arg(directory.join("vmlinuz"));
    command.arg("--payload-output").arg(directory.join(DISK));
    let output = command.stdin(Stdio::null()).output();
    output.map_err(|source| RigError::Start { program: program().display().to_string(), source })
}

/// What a build is made from: the program, which carries guest-init and the profile, the lock, the
/// options, of which those that are files stand for what is in them, and more.
fn key(lock: &Path, options: &[&str], more: &str) -> Result<String, RigError> {
    let mut inputs = sha256_file(program())? + &sha256_file(lock)? + &options.join(" ") + more;
    for file in options.iter().map(Path::new).filter(|path| path.is_file()) {
        inputs += &sha256_file(file)?;
    }
    Ok(sha256(inputs.as_bytes())[..16].to_owned())
}

fn finished(builds: &Path, lock: &Path, options: &[&str], more: &str) -> Result<Option<Built>, RigError> {
    if !lock.is_file() {
        return Ok(None);
    }
    let place = builds.join(key(lock, options, more)?);
    let report = place.join("report.json");
    let text = match fs::read(&report) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        result => result.map_err(|e| RigError::io("read", &report, e))?,
    };
    let report = serde_json::from_slice(&text).map_err(|error| RigError::Malformed {
        what: report.display().to_string(),
        detail: error.to_string(),
    })?;
    let (initrd, kernel) = (place.join("initrd.img"), place.join("vmlinuz"));
    let disk = Some(place.join(DISK)).filter(|disk| disk.exists());
    Ok(Some(Built { initrd, kernel, disk, lock: lock.to_owned(), report }))
}

/// Locks of the builds that tests of this process use.
static HELD: Mutex<BTreeMap<PathBuf, File>> = Mutex::new(BTreeMap::new());

/// Keeps a build until the end of this process, from other processes too.
fn hold(place: &Path) -> Result<(), RigError> {
    let mut held = HELD.lock().unwrap_or_else(PoisonError::into_inner);
    if !held.contains_key(place) {
        let lock = File::open(place).map_err(|e| RigError::io("open", place, e))?;
        lock.lock_shared().map_err(|e| RigError::io("lock", place, e))?;
        held.insert(place.to_owned(), lock);
    }
    Ok(())
}

/// Whether a test of any process uses this build.
fn is_held(place: &Path) -> bool {
    File::open(place).is_ok_and(|lock| lock.try_lock().is_err())
}

/// Removes all builds but those that are in use and the newest others.
fn forget(builds: &Path) -> Result<(), RigError> {
    let entries = fs::read_dir(builds).map_err(|e| RigError::io("list", builds, e))?;
    let mut places: Vec<(SystemTime, PathBuf)> = entries
        .filter_map(|entry| {
            let entry = entry.ok()?;
            Some((entry.metadata().ok()?.modified().ok()?, entry.path()))
        })
        .filter(|(_, place)| !is_held(place))
        .collect();
    places.sort();
    for (_, place) in places.iter().rev().skip(KEPT) {
        fs::remove_dir_all(place).map_err(|e| RigError::io("remove", place, e))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn newest_builds_and_those_in_use_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        for age in 0..14_u64 {
            let place = dir.path().join(age.to_string());
            fs::create_dir(&place).unwrap();
            let time = SystemTime::now() - std::time::Duration::from_hours(age);
            fs::File::open(&place).unwrap().set_modified(time).unwrap();
        }
        hold(&dir.path().join("13")).unwrap();
        forget(dir.path()).unwrap();
        let mut left: Vec<_> = fs::read_dir(dir.path())
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        left.sort();
        let newest = (0..KEPT).map(|age| age.to_string());
        let mut expected: Vec<_> = newest.chain(["13".to_owned()]).collect();
        expected.sort();
        assert_eq!(left, expected);
    }

    #[test]
    fn nested_cargo_loses_only_the_package_variables() {
        assert!(is_cargos_own("CARGO_PKG_NAME") && is_cargos_own("CARGO_MANIFEST_DIR"));
        assert!(!is_cargos_own("CARGO_HOME") && !is_cargos_own("CARGO_TARGET_DIR"));
    }
}
