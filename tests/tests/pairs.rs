//! The default pair of a kernel and a driver, and another one: each is resolved, built, verified, and booted with a phantom GPU. The driver
//! comes from Ubuntu's archive, the kernel of the default from Debian's. (Other guests have Debian's driver: see `GUESTS` of the rig.)
//!
//! Ubuntu's archive is wherever `host-builder` finds it: the machine's own one, or the one beside its Debian archive on the same mirror.
//! Without such an archive these tests do not run, and `tests/run` says so in its last lines.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use host_builder::pins::lock::Lock;
use host_builder::pins::profile::DEFAULT;
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
    pair::{INITRD, KERNEL, LOCK, build, run},
    phantom::Model,
    record::not_run,
    roots::Suite,
    scene::{PATIENCE, between, boot, file_disk, finding, root_disk, wait},
};

/// Words of the error without an archive, and the reason for the record.
const NO_ARCHIVE: &str = "no archive of Ubuntu is within reach";
const WHY: &str =
    "no Ubuntu archive is within reach of this machine: name one with GPU_INITRD_ARCHIVE_UBUNTU";

fn good(output: &Output) {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// The image of a pair, made from packages that the archives still have, in a directory that is kept; `None`: there is no archive.
fn built(test: &str, pair: &[&str]) -> Option<PathBuf> {
    let cache = cache().unwrap();
    let place = cache.room(&format!("rig/pairs/{}", pair.join("+"))).unwrap();
    let _one_at_a_time = cache.lock("rig-pairs").unwrap();
    if let Err(text) = build(&place, pair) {
        assert!(text.contains(NO_ARCHIVE), "{text}");
        not_run(test, WHY);
        return None;
    }
    Some(place)
}

/// Verifies and boots the image of a pair. The kernel's release ends in `kernel`.
fn verifies_and_drives_a_gpu(place: &Path, kernel: &str) {
    let mut verify = Command::new(program());
    verify.args(["verify", INITRD, "--lock", LOCK]).current_dir(place);
    good(&verify.output().unwrap());
    // The driver's own list of files, with everything that it names. The pair is that of the lock.
    let all = "compute,utility,video,graphics,display,ngx";
    let plan =
        run(place, &["build-initrd", "--dry-run", "--json", "--payload", "files", "--capabilities", all]);
    good(&plan);
    // As in NVIDIA's table for the branch, and in libcuda's own note.
    let planned = Manifest::from_json(&plan.stdout).unwrap().driver.unwrap();
    assert_eq!((planned.version.starts_with("580."), planned.cuda.as_deref()), (true, Some("13.0")));
    let lock = Lock::read(&place.join(LOCK)).unwrap().unwrap();
    assert!(lock.kernel_release.ends_with(kernel), "{}", lock.kernel_release);

    let dir = tempfile::tempdir().unwrap();
    let script = "nvidia-smi; echo smi ended with $?; echo dlopen; dlopen libcuda.so.1 libnvidia-ml.so.1; echo the end; sleep 1000";
    let config = serde_json::json!({ "entrypoint": ["/bin/sh", "-c", script] }).to_string();
    let config = file_disk(dir.path(), "config", layout::CONFIG_FILE, &config);
    let setup = Setup::new(&place.join(KERNEL), &place.join(INITRD)).unwrap();
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

#[test]
fn default_pair_drives_a_gpu() {
    let test = "pairs::default_pair_drives_a_gpu";
    let Some(place) = built(test, &["--profile", DEFAULT]) else { return };
    verifies_and_drives_a_gpu(&place, "-cloud-amd64");
}

#[test]
fn ubuntu_kernel_with_its_driver_drives_a_gpu() {
    let test = "pairs::ubuntu_kernel_with_its_driver_drives_a_gpu";
    let Some(place) = built(test, &["--profile", "ubuntu-24.04"]) else { return };
    verifies_and_drives_a_gpu(&place, "-generic");
    // Where the archive is, is no part of what is locked.
    let text = fs::read_to_string(place.join(LOCK)).unwrap();
    assert!(!text.contains("://"), "{text}");
}
