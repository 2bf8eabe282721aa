//! The driver's files in an EROFS image, in the initrd and on a disk: mounted, checked, and visible
//! in a container.

use image::layout;
use image::status::{Code, Outcome, Phase, PhaseOutcome, Status};
use image::wire::Until;
use rig::build::{Built, initrd_for_disk, initrd_with};
use rig::checks::Checks;
use rig::disk::FileSystem;
use rig::guest::{Guest, Setup};
use rig::phantom::Model;
use rig::qemu::Drive;
use rig::roots::Suite;
use rig::scene::{PATIENCE, ask, between, boot, finding, guest_of, root_disk, wait, with_config};
use rig::variant::Variant;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// The default build: the kernel has EROFS, so that the driver is an image in the initrd.
fn image() -> &'static Built {
    static BUILT: OnceLock<Built> = OnceLock::new();
    BUILT.get_or_init(|| initrd_with(&[]))
}

fn driver_disk() -> &'static Path {
    initrd_for_disk().disk.as_deref().unwrap()
}

/// A script for a container that has a GPU: it lists the driver's files and opens the adapter once
/// more. Digests of a hundred megabytes take an emulated processor long: they are computed only if
/// `$SUMS` is set.
const LOOK: &str = "echo dlopen; dlopen libcuda.so.1 libcuda.so libnvidia-ml.so.1; echo files
    for f in $(find / -xdev -name 'lib*.so.550*' -o -xdev -name nvidia-smi); do stat -c '%n %s %a %u:%g' $f; done | sort; echo sums
    [ -z \"$SUMS\" ] || for f in $(find / -xdev -name 'lib*.so.550*'); do sha256sum $f; done; echo smi
    nvidia-smi; echo smi ended with $?
    rm /usr/bin/nvidia-smi; ls /usr/bin/nvidia-smi 2>/dev/null; echo removed $?; echo the end; sleep 1000";

fn with_script(setup: Setup, dir: &Path, text: &str) -> Setup {
    with_config(setup, dir, &serde_json::json!({ "entrypoint": ["/bin/sh", "-c", text] }))
}

fn root() -> PathBuf {
    root_disk(Suite::Trixie, FileSystem::Ext4)
}

/// Whether every byte of what the container has is compared.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Bytes {
    Compared,
    NotCompared,
}

/// Boots with a phantom H100, and returns the guest when its container has listed its files.
fn look(setup: Setup, bytes: Bytes) -> Guest {
    let dir = tempfile::tempdir().unwrap();
    let sums = if bytes == Bytes::Compared { "yes" } else { "" };
    let config = serde_json::json!({ "entrypoint": ["/bin/sh", "-c", LOOK], "env": { "SUMS": sums } });
    let setup = with_config(setup.disk(&root(), "root"), dir.path(), &config).gpu(Model::H100);
    let mut guest = boot(setup.cmdline("HAS_GPU=1 gpu_initrd.gpu=optional"));
    guest.wait_for_console("the end", PATIENCE).unwrap();
    guest
}

/// The container has every file that the manifest lists, byte for byte where digests were computed,
/// and the adapter gets its firmware each time.
fn assert_whole(guest: &Guest, built: &Built, bytes: Bytes) {
    let (console, status) = (guest.console(), ask(guest));
    let mut checks = Checks::of(&console);
    checks.same(status.outcome, Outcome::Ready, "outcome");
    checks.that(status.resolved.iter().all(|resolved| resolved.ours), format!("{:?}", status.resolved));
    let opened = between(&console, "dlopen", "files");
    checks.that(opened.iter().any(|line| line.starts_with("libcuda.so.1 ")), format!("{opened:?}"));
    let files = between(&console, "files", "sums");
    let is_it = |line: &String| line.starts_with("/usr/bin/nvidia-smi ") && line.ends_with(" 755 0:0");
    checks.that(files.iter().any(is_it), format!("{files:?}"));
    let sums = between(&console, "sums", "smi");
    let manifest = rig::variant::manifest(&built.initrd).unwrap();
    let packed: Vec<_> = manifest.files.iter().filter(|file| file.path.ends_with(built.driver())).collect();
    checks.that(packed.len() > 8, format!("{packed:?}"));
    for file in packed {
        let image::manifest::Kind::File { sha256, size } = &file.kind else { continue };
        let name = file.path.rsplit('/').next().unwrap();
        let is_there = |line: &String| line.contains(&format!("/{name} {size} "));
        checks.that(files.iter().any(is_there), format!("{name} of {size} bytes is not in {files:#?}"));
        let is_it = |line: &String| line.starts_with(sha256) && line.ends_with(name);
        let compared = bytes == Bytes::NotCompared || sums.iter().any(is_it);
        checks.that(compared, format!("{name} is not in {sums:#?}"));
    }
    checks.has(&console, "No devices were found\nsmi ended with 6\nremoved 2\n", "nvidia-smi");
    let failed = finding(&status, Code::AdapterInitFailed);
    checks.has(&failed.evidence.join("\n"), "RmInitAdapter failed! (0x62:0x65:", "evidence");
    // Once for PID 1, once for nvidia-smi: both got as far, so both had their firmware.
    let reached = console.matches("RmInitAdapter failed! (0x62:0x65:").count();
    checks.that(reached >= 2, format!("{reached} times to the hardware's stage"));
    checks.that(!console.contains("Direct firmware load"), "firmware was missing");
}

fn phase(status: &Status, wanted: Phase) -> PhaseOutcome {
    status.phases.iter().find(|time| time.phase == wanted).unwrap().outcome
}

#[test]
fn default_initrd_mounts_its_driver_image() {
    assert_eq!(image().report["payload"]["mode"], "image", "{}", image().report);
    let guest = look(guest_of(&image().initrd), Bytes::Compared);
    assert_whole(&guest, image(), Bytes::Compared);
    assert_eq!(phase(&ask(&guest), Phase::Payload), PhaseOutcome::Done);
}

#[test]
fn driver_disk_suits_a_small_guest() {
    let setup = guest_of(&initrd_for_disk().initrd).disk(driver_disk(), "driver").memory_mib(256);
    let guest = look(setup, Bytes::Compared);
    assert_whole(&guest, initrd_for_disk(), Bytes::Compared);
}

#[test]
fn driver_is_mounted_from_persistent_memory() {
    let guest = look(guest_of(&initrd_for_disk().initrd).pmem(driver_disk()), Bytes::NotCompared);
    assert_whole(&guest, initrd_for_disk(), Bytes::NotCompared);
}

/// A changed copy of a driver's disk.
fn altered(disk: &Path, dir: &Path, change: impl FnOnce(&mut Vec<u8>)) -> PathBuf {
    let mut bytes = std::fs::read(disk).unwrap();
    change(&mut bytes);
    let path = dir.join("altered.erofs");
    std::fs::write(&path, bytes).unwrap();
    path
}

/// Boots with a GPU that is required, and returns the status of the failed boot.
fn refused(setup: Setup) -> Status {
    let setup = setup.disk(&root(), "root").gpu(Model::H100);
    let guest = boot(setup.cmdline("HAS_GPU=1 gpu_initrd.linger=120s gpu_initrd.disk_timeout=2s -- true"));
    let status = wait(&guest, Until::Ready);
    assert_eq!((status.outcome, status.container.as_ref()), (Outcome::Failed, None));
    status
}

#[test]
fn missing_and_wrong_driver_disks_are_named_by_uuid() {
    let uuid = initrd_for_disk().report["payload"]["uuid"].as_str().unwrap();
    let status = refused(guest_of(&initrd_for_disk().initrd));
    let missing = finding(&status, Code::PayloadDiskMissing);
    assert!(missing.message.contains(uuid) && missing.message.contains("/dev/vda"), "{missing:?}");
    assert!(missing.hint.contains("--payload-output"), "{missing:?}");
    assert_eq!(phase(&status, Phase::Payload), PhaseOutcome::Failed);

    let other = initrd_with(crate::gpu::FOR_T4);
    let other_uuid = other.report["payload"]["uuid"].as_str().unwrap();
    assert_ne!(uuid, other_uuid);
    let status = refused(guest_of(&initrd_for_disk().initrd).disk(other.disk.as_deref().unwrap(), "driver"));
    let missing = finding(&status, Code::PayloadDiskMissing);
    assert!(missing.message.contains(uuid) && missing.message.contains(other_uuid), "{missing:?}");
}

#[test]
fn altered_driver_disk_is_refused_by_dm_verity() {
    let dir = tempfile::tempdir().unwrap();
    // Every block after the superblock, so that the first one that is read is wrong.
    let altered = altered(driver_disk(), dir.path(), |bytes| {
        for at in (8192..bytes.len() / 2).step_by(4096) {
            bytes[at] ^= 1;
        }
    });
    let status = refused(guest_of(&initrd_for_disk().initrd).disk(&altered, "driver"));
    let refused = finding(&status, Code::PayloadAltered);
    assert!(refused.message.contains("hash tree"), "{refused:?}");
    assert!(refused.evidence.iter().any(|line| line.contains("verity")), "{refused:?}");
}

#[test]
fn altered_superblock_of_the_driver_disk_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    // A byte of the first block that is not part of the UUID.
    let altered = altered(driver_disk(), dir.path(), |bytes| bytes[4000] ^= 1);
    let status = refused(guest_of(&initrd_for_disk().initrd).disk(&altered, "driver"));
    finding(&status, Code::PayloadAltered);
}

/// The image for a disk, as for a kernel that has no dm-verity.
fn without_verity(built: &Built, dir: &Path) -> PathBuf {
    let mut variant = Variant::of(&built.initrd).unwrap();
    variant.edit_manifest(|manifest| {
        manifest.modules.retain(|module| !["dm_verity", "dm_mod"].contains(&&*module.name));
    });
    let path = dir.join("plain.img");
    variant.write(&path).unwrap();
    path
}

/// With the smallest disk: an emulated processor needs long for the digest of a large one.
#[test]
fn without_dm_verity_the_whole_driver_disk_is_hashed() {
    let dir = tempfile::tempdir().unwrap();
    let built = initrd_with(crate::gpu::FOR_T4);
    let disk = built.disk.as_deref().unwrap();
    let initrd = without_verity(&built, dir.path());
    // A disk with the same UUID and the same beginning comes first.
    let decoy = altered(disk, dir.path(), |bytes| bytes[1 << 20] ^= 1);
    let setup =
        guest_of(&initrd).disk(&root(), "root").disk(&decoy, "decoy").disk(disk, "driver").gpu(Model::T4);
    let setup =
        with_script(setup, dir.path(), "nvidia-smi; echo smi ended with $?; echo the end; sleep 1000");
    let mut guest = boot(setup.cmdline("HAS_GPU=1 gpu_initrd.gpu=optional"));
    guest.wait_for_console("the end", PATIENCE).unwrap();
    let (console, status) = (guest.console(), ask(&guest));
    let mut checks = Checks::of(&console);
    checks.has(&console, "the kernel has no dm-verity: checking all of /dev/vdc", "the console");
    checks.has(
        &console,
        "/dev/vdb: the disk with the driver files has changed since it was built",
        "the console",
    );
    checks.has(&console, "No devices were found\nsmi ended with 6\n", "nvidia-smi");
    checks.same(status.outcome, Outcome::Ready, "outcome");
    drop(checks);

    // What is read once must not change later.
    let image = dir.path().join("writable.erofs");
    std::fs::copy(disk, &image).unwrap();
    let writable = Drive { image, read_only: false, serial: "driver".into() };
    let setup = guest_of(&initrd).disk(&decoy, "decoy").drive(writable).gpu(Model::T4);
    let guest = boot(setup.disk(&root(), "root").cmdline("HAS_GPU=1 gpu_initrd.linger=120s -- true"));
    let status = wait(&guest, Until::Ready);
    let refused = finding(&status, Code::PayloadAltered);
    assert!(refused.message.contains("expected") && refused.message.contains("sha256"), "{refused:?}");
    let console = guest.console();
    assert!(console.contains("the disk is writable: attach it read-only"), "{console}");
}

/// There is no kernel here that cannot mount files at all. But the file system of the initramfs
/// matters, too: on a tmpfs this kernel cannot. The image has files of three compressions.
#[test]
fn driver_image_on_tmpfs_is_mounted_by_a_loop_device() {
    let initrd = &initrd_with(&["--payload-compression", "mixed"]);
    let setup = Setup::new(&initrd.kernel, &initrd.initrd).unwrap().memory_mib(2048);
    let guest = look(setup, Bytes::Compared);
    assert_whole(&guest, initrd, Bytes::Compared);
}

#[test]
fn unneeded_driver_frees_its_memory() {
    let dir = tempfile::tempdir().unwrap();
    // Where the image's init is the guest's, the process that stays in the initramfs is visible.
    let text = "for keeper in /proc/[0-9]*; do grep -aq '^@gpu-initrd' $keeper/cmdline && break; done
        cd $keeper/root && echo begin; ls -d usr/lib/nvidia usr/share/gpu-initrd/driver.erofs 2>/dev/null
        find lib/firmware usr/lib/nvidia lib/modules -type f 2>/dev/null; ls init; echo end
        echo o > /proc/sysrq-trigger; exec sleep 1000";
    for initrd in [&image().initrd, &rig::build::initrd().initrd] {
        let setup = guest_of(initrd).disk(&root(), "root").cmdline("gpu_initrd.init_mode=systemd");
        let mut guest = boot(with_script(setup, dir.path(), text));
        let (_, console) = guest.wait_for_end(PATIENCE).unwrap();
        let left = between(&console, "begin", "end");
        let (init, left) = left.split_last().unwrap_or_else(|| panic!("{console}"));
        assert_eq!(init, "init", "{console}");
        assert!(left.iter().all(|path| path == "usr/lib/nvidia"), "{left:?}\n{console}");
    }
}

/// The kernel unpacks segments of every compression: they follow one another in one image, and a
/// kernel that cannot unpack one of them never reaches the last.
#[test]
fn initrds_of_every_compression_boot() {
    let mut all = Vec::new();
    for compression in ["zstd:1", "gzip", "xz", "none", "lz4"] {
        let built = initrd_with(&["--payload", "disk", "--compression", compression]);
        all.extend(std::fs::read(&built.initrd).unwrap());
        all.resize(all.len().next_multiple_of(4), 0);
    }
    let dir = tempfile::tempdir().unwrap();
    let initrd = dir.path().join("all.img");
    std::fs::write(&initrd, all).unwrap();
    let setup = guest_of(&initrd).disk(&root(), "root");
    let mut guest = boot(setup.cmdline("-- /bin/echo the container runs"));
    let (_, console) = guest.wait_for_end(PATIENCE).unwrap();
    assert!(console.contains("\nthe container runs\n"), "{console}");
    assert!(!console.contains("Initramfs unpacking failed"), "{console}");
}

/// A kernel without the module has no EROFS.
#[test]
fn kernel_that_cannot_mount_the_payload_is_a_finding() {
    let dir = tempfile::tempdir().unwrap();
    let mut variant = Variant::of(&image().initrd).unwrap();
    variant.edit_manifest(|manifest| manifest.modules.retain(|module| module.name != "erofs"));
    let initrd = dir.path().join("no-erofs.img");
    variant.write(&initrd).unwrap();
    let status = refused(guest_of(&initrd));
    let unusable = finding(&status, Code::PayloadUnusable);
    assert!(unusable.message.contains(layout::PAYLOAD_IMAGE), "{unusable:?}");
    assert!(unusable.hint.contains("--payload files"), "{unusable:?}");
}
