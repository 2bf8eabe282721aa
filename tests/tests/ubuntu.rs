//! Ubuntu's archive as the source of packages: the built-in profile is resolved, built, verified,
//! and booted with a phantom GPU.
//!
//! The archive is the machine's own one for Ubuntu, else the one next to its Debian archive on the
//! same mirror. Without such an archive the test does not run, and `tests/run` says so in its last
//! lines.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use host_builder::artifacts::unpack::Unpacker;
use host_builder::common::digest::sha256;
use host_builder::common::ui::Ui;
use host_builder::pins::profile;
use host_builder::pins::profile::{Distribution, Profile};
use host_builder::resolve::sources::apt::{Apt, Packages, Scope, machine_archive};
use host_builder::resolve::sources::{Access, Source as _};
use image::{
    layout,
    manifest::Manifest,
    status::{Code, GpuState, Outcome},
    wire::Until,
};
use rig::{
    build::{cache, program},
    disk::FileSystem,
    guest::Setup,
    phantom::Model,
    record::not_run,
    roots::Suite,
    scene::{PATIENCE, between, boot, file_disk, finding, root_disk, wait},
};

const PROFILE: &str = "ubuntu-24.04";
/// The driver's branch: the archive has its newest version only.
const DRIVER: &str = "580.x";

/// Address and key ring of Ubuntu's archive.
fn archive() -> (String, PathBuf) {
    let own = machine_archive(Distribution::Ubuntu).ok();
    let uri = own.map_or_else(
        || {
            let debian = machine_archive(Distribution::Debian).unwrap().uri;
            let base = debian.trim_end_matches('/').strip_suffix("debian").unwrap_or(&debian).to_owned();
            format!("{base}ubuntu")
        },
        |archive| archive.uri,
    );
    (uri, keys())
}

/// Ubuntu's keys, from a package of Debian 13.
fn keys() -> PathBuf {
    let cache = cache().unwrap();
    let room = cache.room("rig/ubuntu-keys").unwrap();
    let keys = room.join("usr/share/keyrings/ubuntu-archive-keyring.gpg");
    if !keys.exists() {
        let ui = Ui::new(true);
        let suite = Suite::Trixie.name();
        let from =
            profile::Apt { suite: suite.into(), components: vec!["main".into()], ..profile::Apt::default() };
        let apt = Apt::open(Access::new(&cache, &ui), &from, &[], "x86_64").unwrap();
        let wanted = Packages { names: &["ubuntu-keyring"], scope: Scope::Exact, suite };
        let package = apt.resolve(wanted).unwrap().remove(0);
        apt.fetch(&[&package]).unwrap();
        Unpacker::new(&room).deb(&cache.verified_blob(&package.sha256).unwrap()).unwrap();
    }
    keys
}

/// The profile with archive and keys of this machine, in a directory that is kept, with its lock.
fn place() -> PathBuf {
    let (uri, keys) = archive();
    let text = Profile::load(PROFILE).unwrap().1;
    let apt = format!("[apt]\nuri = {uri:?}\nsigned_by = \"{}\"\n", keys.display());
    let text = text.replacen("[apt]\n", &apt, 1);
    let place = cache().unwrap().room("rig/ubuntu").unwrap().join(&sha256(text.as_bytes())[..16]);
    fs::create_dir_all(&place).unwrap();
    fs::write(place.join("profile.toml"), text).unwrap();
    place
}

fn run(place: &Path, words: &[&str]) -> Output {
    let mut command = Command::new(program());
    command.args(words).args(["--profile", "./profile.toml", "--lock", "ubuntu.lock", "--quiet"]);
    command.current_dir(place).stdin(Stdio::null()).output().unwrap()
}

fn good(output: &Output) {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// The image, made from packages that the archive still has, or the reason why the mirror has no
/// Ubuntu.
fn built() -> Option<PathBuf> {
    let place = place();
    let build =
        ["build-initrd", "--output", "initrd.img", "--kernel-output", "vmlinuz", "--payload", "image"];
    let _one_at_a_time = cache().unwrap().lock("rig-ubuntu").unwrap();
    if place.join("ubuntu.lock").exists() && run(&place, &build).status.success() {
        return Some(place);
    }
    let resolved = run(&place, &["pins", "update", "--driver", DRIVER]);
    let text = String::from_utf8_lossy(&resolved.stderr).into_owned();
    if text.contains("does not have a Release file") {
        let why = "this machine's mirror has no Ubuntu beside its Debian (apt: does not have a Release file)";
        not_run("ubuntu::ubuntu_initrd_verifies_and_drives_a_gpu", why);
        return None;
    }
    assert!(resolved.status.success(), "{text}");
    good(&run(&place, &build));
    Some(place)
}

#[test]
fn ubuntu_initrd_verifies_and_drives_a_gpu() {
    let Some(place) = built() else { return };
    let mut verify = Command::new(program());
    verify.args(["verify", "initrd.img", "--lock", "ubuntu.lock"]).current_dir(&place);
    good(&verify.output().unwrap());
    // The driver's own list of files, with everything that it names.
    let all = "compute,utility,video,graphics,display,ngx";
    let plan =
        run(&place, &["build-initrd", "--dry-run", "--json", "--payload", "files", "--capabilities", all]);
    good(&plan);
    // As in NVIDIA's table for the branch, and in libcuda's own note.
    let planned = Manifest::from_json(&plan.stdout).unwrap().driver.unwrap();
    assert_eq!((planned.version.starts_with("580."), planned.cuda.as_deref()), (true, Some("13.0")));
    let lock = host_builder::pins::lock::Lock::read(&place.join("ubuntu.lock")).unwrap().unwrap();
    assert!(lock.kernel_release.ends_with("-generic"), "{}", lock.kernel_release);

    let dir = tempfile::tempdir().unwrap();
    let script = "nvidia-smi; echo smi ended with $?; echo dlopen; dlopen libcuda.so.1 libnvidia-ml.so.1; echo the end; sleep 1000";
    let config = serde_json::json!({ "entrypoint": ["/bin/sh", "-c", script] }).to_string();
    let config = file_disk(dir.path(), "config", layout::CONFIG_FILE, &config);
    let setup = Setup::new(&place.join("vmlinuz"), &place.join("initrd.img")).unwrap();
    let setup = setup
        .memory_mib(1024)
        .disk(&root_disk(Suite::Trixie, FileSystem::Ext4), "root")
        .disk(&config, "config");
    let setup = setup.gpu(Model::H100).cmdline("rootfstype=ramfs HAS_GPU=1 gpu_initrd.gpu=optional");
    let mut guest = boot(setup);
    guest.wait_for_console("the end", PATIENCE).unwrap();
    let console = guest.console();
    assert!(console.contains("\nNo devices were found\nsmi ended with 6\n"), "{console}");
    let opened = between(&console, "dlopen", "the end");
    for name in ["libcuda.so.1", "libnvidia-ml.so.1"] {
        assert!(opened.iter().any(|line| line.starts_with(&format!("{name} "))), "{opened:?}");
    }
    let status = wait(&guest, Until::Ready);
    assert_eq!(status.outcome, Outcome::Ready, "{:?}", status.findings);
    assert_eq!(status.driver_loaded.as_deref(), Some(lock.driver.as_str()));
    let gpu = &status.gpus[0];
    assert_eq!((gpu.state, gpu.minor, gpu.device), (GpuState::Failed, Some(0), 0x2330));
    assert_eq!(gpu.model.as_deref(), Some("NVIDIA H100 80GB HBM3"));
    let failed = finding(&status, Code::AdapterInitFailed);
    assert!(failed.evidence.iter().any(|line| line.contains("RmInitAdapter failed!")), "{failed:?}");
    assert!(status.resolved.iter().all(|resolved| resolved.ours), "{:?}", status.resolved);
}
