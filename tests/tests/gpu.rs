//! The driver in a guest: the real one on phantom GPUs, and the stub where a phantom cannot answer.

use image::layout;
use image::status::{Code, GpuState, Outcome, Phase, PhaseOutcome, Severity, Status};
use image::wire::Until;
use rig::build::{initrd, initrd_for_disk, initrd_with};
use rig::checks::Checks;
use rig::disk::FileSystem;
use rig::phantom::Model;
use rig::roots::Suite;
use rig::scene::{
    PATIENCE, ask, between, boot, file_disk, finding, guest_of, guest_with_driver, guest_with_stub,
    root_disk, wait, wait_for, with_driver,
};
use rig::variant::{Variant, patch};

/// A config.json that runs a shell script.
fn script(text: &str) -> String {
    serde_json::json!({ "entrypoint": ["/bin/sh", "-c", text] }).to_string()
}

/// Path, numbers, mode and owner of every NVIDIA node, and its entry in /dev/char.
const LIST_NODES: &str = "find /dev -name 'nvidia*' -type c -exec stat -c '%n %t:%T %a %u:%g' {} + | sort;
    find /dev/char -lname '*nvidia*' -printf '%p %l\n' | sort";

#[test]
fn absent_promised_gpu_ends_the_boot() {
    let guest = boot(guest_with_driver().cmdline("HAS_GPU=1 gpu_initrd.linger=120s -- true"));
    let status = wait(&guest, Until::Ready);
    assert_eq!(status.outcome, Outcome::Failed);
    assert_eq!(status.container, None);
    let finding = finding(&status, Code::NoGpu);
    assert_eq!(finding.severity, Severity::Error);
    assert!(finding.message.contains("there is no NVIDIA GPU on the PCI bus"), "{finding:?}");
    let gpu = status.phases.iter().find(|time| time.phase == Phase::Gpu).unwrap();
    assert_eq!(gpu.outcome, PhaseOutcome::Failed);
}

#[test]
fn absent_optional_gpu_is_a_finding_and_the_container_runs() {
    let mut guest = boot(
        guest_with_driver().cmdline("HAS_GPU=1 gpu_initrd.gpu=optional -- /bin/echo the container runs"),
    );
    let (_, console) = guest.wait_for_end(PATIENCE).unwrap();
    assert!(console.contains("\nthe container runs\n"), "{console}");
    assert!(console.contains("no-gpu: "), "{console}");
}

#[test]
fn without_has_gpu_no_driver_is_loaded() {
    let dir = tempfile::tempdir().unwrap();
    let text = "echo begin; find / -xdev '(' -name '*nvidia*' -o -name 'libcuda*' ')'; grep nvidia /proc/modules /proc/devices; ls /dev | grep nvidia; echo end; grep -o '^squashfs' /proc/modules";
    let config = file_disk(dir.path(), "config", layout::CONFIG_FILE, &script(text));
    let setup = guest_with_driver().gpu(Model::H100).disk(&config, "config");
    let mut guest = boot(setup.cmdline("gpu_initrd.modules=all"));
    let (_, console) = guest.wait_for_end(PATIENCE).unwrap();
    assert!(console.contains("\nbegin\n") && console.contains("\nend\n"), "{console}");
    assert_eq!(between(&console, "begin", "end"), Vec::<String>::new());
    // The other modules are loaded, since the host asked for all.
    assert!(console.contains("\nsquashfs\n"), "{console}");
}

/// The whole path on a phantom H100 and a Debian 13 root, checked with the container's own
/// programs.
#[test]
fn h100_gets_the_nodes_and_libraries_of_real_tools() {
    let dir = tempfile::tempdir().unwrap();
    let text = format!(
        "echo nodes; {LIST_NODES}; echo removing
         rm -rf /dev/nvidia*; find /dev/char -lname '*nvidia*' -delete; umask 077
         nvidia-modprobe -c 0 -c 255; nvidia-modprobe -u -c 0; nvidia-modprobe -m
         for f in $(find /proc/driver/nvidia/capabilities -type f); do nvidia-modprobe -f $f; done
         echo nvidia-modprobe; {LIST_NODES}; echo smi
         nvidia-smi; echo smi ended with $?; echo dlopen
         dlopen libcuda.so.1 libcuda.so libnvidia-ml.so.1; echo dlopen ended with $?; echo cache
         ldconfig -p; echo ldconfig
         ldconfig; ldconfig -p; echo links
         find /usr/lib -type l -name 'lib*' -newer /proc/1/cmdline; echo the end; sleep 1000"
    );
    let config = file_disk(dir.path(), "config", layout::CONFIG_FILE, &script(&text));
    let setup = with_driver(&initrd_for_disk().initrd, initrd_for_disk())
        .disk(&root_disk(Suite::Trixie, FileSystem::Ext4), "root")
        .disk(&config, "config")
        .gpu(Model::H100)
        .cmdline("HAS_GPU=1 gpu_initrd.gpu=optional gpu_initrd.gpus=10de:2330");
    let mut guest = boot(setup);

    // The status answers while the GPU is still initialising.
    let early = wait_for(&guest, "a GPU that initialises", |status| {
        status.gpus.iter().any(|gpu| gpu.state == GpuState::Initialising)
    });
    assert_eq!(early.outcome, Outcome::Pending);

    guest.wait_for_console("the end", PATIENCE).unwrap();
    let (console, status) = (guest.console(), ask(&guest));
    let mut checks = Checks::of(&console);
    let nodes = between(&console, "nodes", "removing");
    checks.same(&nodes, &between(&console, "nvidia-modprobe", "smi"), "ours, and nvidia-modprobe's");
    checks.that(nodes.contains(&"/dev/nvidia0 c3:0 666 0:0".to_owned()), format!("{nodes:?}"));
    checks.that(nodes.len() >= 8, format!("{nodes:?}"));
    checks.has(&console, "\nNo devices were found\nsmi ended with 6\n", "nvidia-smi");

    let opened = between(&console, "dlopen", "cache");
    for name in ["libcuda.so.1", "libcuda.so", "libnvidia-ml.so.1"] {
        let found = opened.iter().find(|line| line.starts_with(&format!("{name} ")));
        checks.has(found.map_or("", |line| line), "/lib/x86_64-linux-gnu", name);
    }
    checks.that(opened.contains(&"dlopen ended with 0".to_owned()), format!("{opened:?}"));
    check_cache(&mut checks, &console, &status);

    checks.same((status.outcome, status.phase), (Outcome::Ready, Phase::Running), "outcome and phase");
    checks.same(status.driver_loaded.as_deref(), Some(initrd_for_disk().driver()), "driver");
    let gpu = &status.gpus[0];
    checks.same((gpu.state, gpu.minor, gpu.device), (GpuState::Failed, Some(0), 0x2330), "GPU");
    checks.same(gpu.model.as_deref(), Some("NVIDIA H100 80GB HBM3"), "model");
    let failed = finding(&status, Code::AdapterInitFailed);
    checks.has(&failed.evidence.join("\n"), "RmInitAdapter failed! (0x62:0x65:", "evidence");
    checks.same(&failed.evidence, &gpu.evidence, "evidence of the finding, and of the GPU");

    let init = status.memory.map_or(0, |memory| memory.init);
    checks.that(
        init > 0 && init < 5 << 20,
        format!("PID 1 had {init} bytes resident, it promises less than 5 MiB"),
    );
}

/// The loader cache has what was injected, and is what the image's own ldconfig makes of it.
fn check_cache(checks: &mut Checks, console: &str, status: &Status) {
    let ours = between(console, "cache", "ldconfig");
    for injected in status.injected.iter().filter(|item| item.link.is_some()) {
        let name = injected.path.rsplit('/').next().unwrap();
        let is_it = |line: &String| line.trim_start().starts_with(&format!("{name} ("));
        checks.that(ours.iter().any(is_it), format!("{name} is not in {ours:#?}"));
    }
    let theirs = between(console, "ldconfig", "links");
    checks.same(entries(&ours), entries(&theirs), "ours, and the image's ldconfig's");
    checks.that(status.resolved.iter().all(|resolved| resolved.ours), format!("{:?}", status.resolved));
    let count = status.cache.as_ref().map(|cache| cache.entries as usize);
    checks.same(count, Some(entries(&ours).len()), "entries");
}

/// Lines of `ldconfig -p` that are entries.
fn entries(lines: &[String]) -> Vec<&String> {
    lines.iter().filter(|line| line.contains(" => ")).collect()
}

#[test]
fn five_gpus_get_their_minors_and_an_unknown_one_is_marked() {
    let mut setup =
        guest_with_driver().cmdline("HAS_GPU=1 gpu_initrd.gpu=optional gpu_initrd.gpus=5 -- /bin/sleep 1000");
    for model in [Model::T4, Model::A100, Model::L4, Model::H100, Model::B200] {
        setup = setup.gpu(model);
    }
    let guest = boot(setup.memory_mib(1536));
    let status = wait(&guest, Until::Ready);
    assert_eq!(status.outcome, Outcome::Ready);
    let devices: Vec<_> = status.gpus.iter().map(|gpu| gpu.device).collect();
    assert_eq!(devices, [0x1eb8, 0x20b0, 0x27b8, 0x2330, 0x2901]);
    let mut minors: Vec<_> = status.gpus.iter().filter_map(|gpu| gpu.minor).collect();
    minors.sort_unstable();
    assert_eq!(minors, [0, 1, 2, 3]);
    for minor in 0..4 {
        let path = format!("/dev/nvidia{minor}");
        let node = status.nodes.iter().find(|node| node.path == path).unwrap();
        assert_eq!((node.major, node.minor, node.mode), (195, minor, 0o666));
    }
    let b200 = &status.gpus[4];
    assert_eq!((b200.state, b200.minor), (GpuState::Unsupported, None));
    let unsupported = finding(&status, Code::GpuUnsupported);
    assert!(unsupported.message.contains(&b200.bdf), "{unsupported:?}");
    let words = format!("not supported by the NVIDIA {} driver release", initrd().driver());
    assert!(unsupported.evidence.join(" ").replace("NVRM: ", "").contains(&words), "{unsupported:?}");
    // Every adapter that failed has a finding of its own, with lines about itself.
    for gpu in status.gpus.iter().filter(|gpu| gpu.state == GpuState::Failed) {
        let own = |finding: &&image::status::Finding| finding.message.contains(&gpu.bdf);
        let finding = status.findings.iter().find(own).unwrap();
        assert!(finding.evidence.iter().any(|line| line.contains(&gpu.bdf)), "{finding:?}");
    }
}

/// A disk with another driver disk's UUID, and without the firmware of Hopper.
pub const FOR_T4: &[&str] = &["--payload", "disk", "--capabilities", "utility", "--gpu", "t4"];

#[test]
fn missing_firmware_is_named() {
    // The image has the firmware of another family.
    let built = initrd_with(FOR_T4);
    let setup =
        with_driver(&built.initrd, &built).disk(&root_disk(Suite::Bookworm, FileSystem::Erofs), "root");
    let guest = boot(setup.gpu(Model::H100).cmdline("HAS_GPU=1 gpu_initrd.linger=120s -- true"));
    let status = wait(&guest, Until::Ready);
    assert_eq!(status.outcome, Outcome::Failed, "a GPU is required by default");
    let finding = finding(&status, Code::FirmwareMissing);
    let file = format!("{}/gsp_ga10x.bin", layout::firmware_dir(initrd().driver()));
    assert!(finding.message.contains(&file), "{finding:?}");
    assert!(finding.evidence.iter().any(|line| line.contains("Direct firmware load for")), "{finding:?}");
}

#[test]
fn driver_of_another_kernel_is_refused_with_both_releases() {
    let dir = tempfile::tempdir().unwrap();
    let release = initrd().release();
    let foreign = format!("9{}", &release[1..]);
    let mut variant = Variant::of(&initrd().initrd).unwrap();
    // With CONFIG_MODVERSIONS a kernel tells its modules by the checksums of their symbols, not by
    // the release.
    let module = variant.file(&layout::gpu_module(release, "nvidia.ko"));
    patch(module, format!("vermagic={release} ").as_bytes(), format!("vermagic={foreign} ").as_bytes());
    spoil_checksum(module, b"module_layout\0");
    variant.edit_manifest(|manifest| {
        let nvidia = manifest.modules.iter_mut().find(|module| module.name == "nvidia").unwrap();
        nvidia.vermagic = nvidia.vermagic.replace(release, &foreign);
    });
    let image = dir.path().join("foreign.img");
    variant.write(&image).unwrap();
    let setup = guest_of(&image).disk(&root_disk(Suite::Bookworm, FileSystem::Erofs), "root");
    let guest = boot(setup.gpu(Model::H100).cmdline("HAS_GPU=1 gpu_initrd.linger=120s -- true"));
    let status = wait(&guest, Until::Ready);
    assert_eq!(status.outcome, Outcome::Failed);
    let finding = finding(&status, Code::KernelMismatch);
    assert!(finding.message.contains(&foreign) && finding.message.contains(release), "{finding:?}");
    let words = "disagrees about version of symbol module_layout";
    assert!(finding.evidence.iter().any(|line| line.contains(words)), "{finding:?}");
}

/// Changes the checksum that a module expects a symbol of the kernel to have: it is stored before
/// the name.
fn spoil_checksum(module: &mut [u8], symbol: &[u8]) {
    let at = module.windows(symbol.len()).position(|window| window == symbol);
    module[at.expect("every module of such a kernel has it") - 8] ^= 0xff;
}

#[test]
fn stub_gpus_become_ready_and_are_held_open() {
    let dir = tempfile::tempdir().unwrap();
    let text = "echo held; cat /sys/module/nvidia/refcnt; ls /sys/module/nvidia/holders | wc -l; echo nodes; ls -1 /dev/nvidia-caps; echo the end; sleep 1000";
    let config = file_disk(dir.path(), "config", layout::CONFIG_FILE, &script(text));
    let mut setup = guest_with_stub()
        .disk(&root_disk(Suite::Bookworm, FileSystem::Squashfs), "root")
        .disk(&config, "config")
        .cmdline("HAS_GPU=1 gpu_initrd.gpus=3 nvidia.gpus=3 nvidia.mig=1");
    for _ in 0..3 {
        setup = setup.gpu(Model::H100);
    }
    let mut guest = boot(setup);
    guest.wait_for_console("the end", PATIENCE).unwrap();
    let console = guest.console();
    // No process of the container has opened one: apart from other modules, PID 1 uses the module.
    // The kernel counts an open device twice, for its cdev and for its operations.
    let counts: Vec<u32> =
        between(&console, "held", "nodes").iter().map(|line| line.parse().unwrap()).collect();
    assert_eq!(counts[0] - counts[1], 2 * 3, "{counts:?}");
    let caps = between(&console, "nodes", "the end");
    let status = ask(&guest);
    assert_eq!(status.outcome, Outcome::Ready);
    assert_eq!(status.findings, []);
    for gpu in &status.gpus {
        assert_eq!(gpu.state, GpuState::Ready);
        assert!(gpu.uuid.as_ref().is_some_and(|uuid| uuid.starts_with("GPU-")), "{gpu:?}");
        assert!(gpu.firmware.is_some() && gpu.init_ms.is_some(), "{gpu:?}");
    }
    // MIG's nodes are among them, by the numbers that the driver gives.
    let wanted: Vec<_> = status
        .nodes
        .iter()
        .filter_map(|node| node.path.strip_prefix("/dev/nvidia-caps/").map(str::to_owned))
        .collect();
    let mut sorted = wanted.clone();
    sorted.sort();
    assert!(caps.len() > 3, "{caps:?}");
    assert_eq!(caps, sorted);
}

#[test]
fn dead_gpu_does_not_hide_the_good_one() {
    let mut setup = guest_with_stub()
        .disk(&root_disk(Suite::Bookworm, FileSystem::Erofs), "root")
        .cmdline("HAS_GPU=1 gpu_initrd.linger=120s nvidia.gpus=2 nvidia.fail=1 -- true");
    for _ in 0..2 {
        setup = setup.gpu(Model::L4);
    }
    let guest = boot(setup);
    let status = wait(&guest, Until::Ready);
    assert_eq!(status.outcome, Outcome::Failed, "every GPU is required by default");
    let states: Vec<_> = status.gpus.iter().map(|gpu| (gpu.minor, gpu.state)).collect();
    assert_eq!(states, [(Some(0), GpuState::Ready), (Some(1), GpuState::Failed)]);
    assert!(finding(&status, Code::AdapterInitFailed).message.contains(&status.gpus[1].bdf));
}

#[test]
fn slow_adapter_fails_at_its_deadline() {
    let setup = guest_with_stub()
        .disk(&root_disk(Suite::Bookworm, FileSystem::Erofs), "root")
        .gpu(Model::L4)
        .cmdline("HAS_GPU=1 gpu_initrd.linger=120s gpu_initrd.gpu_timeout=2s nvidia.gpus=1 nvidia.slow=600000 -- true");
    let guest = boot(setup);
    let status = wait(&guest, Until::Ready);
    assert_eq!((status.outcome, status.gpus[0].state), (Outcome::Failed, GpuState::Failed));
    assert!(finding(&status, Code::AdapterInitFailed).message.contains("within 2 s"));
}

/// The driver initialises one adapter at a time and blocks every reader of a GPU's information
/// meanwhile: here until long after the deadline.
#[test]
fn stuck_adapter_blocks_neither_the_boot_nor_other_gpus() {
    let mut setup = guest_with_stub()
        .disk(&root_disk(Suite::Bookworm, FileSystem::Erofs), "root")
        .cmdline("HAS_GPU=1 gpu_initrd.gpu=optional gpu_initrd.gpu_timeout=4s nvidia.gpus=2 nvidia.slow=600000 nvidia.stuck=1 gpu_initrd.linger=1s -- /bin/sh -c \"cat /dev/nvidia1 & sleep 8; exit 3\"");
    for _ in 0..2 {
        setup = setup.gpu(Model::L4);
    }
    let mut guest = boot(setup);
    let status = wait(&guest, Until::Ready);
    let mut checks = Checks::of(format!("{status:#?}"));
    checks.same((status.outcome, status.phase), (Outcome::Ready, Phase::Running), "outcome and phase");
    checks.same((status.gpus[1].state, status.gpus[1].minor), (GpuState::Failed, Some(1)), "the stuck one");
    // Either may get the driver's lock first. If the stuck one does, the other never gets it.
    let first = &status.gpus[0];
    checks.that([GpuState::Ready, GpuState::Failed].contains(&first.state), format!("{first:?}"));
    for bdf in status.gpus.iter().filter(|gpu| gpu.state == GpuState::Failed).map(|gpu| &gpu.bdf) {
        let own = status.findings.iter().find(|finding| finding.message.contains(bdf));
        checks.has(own.map_or("", |finding| &finding.message), "did not initialise within 4 s", bdf);
    }
    let nodes: Vec<_> = status.nodes.iter().map(|node| node.path.as_str()).collect();
    checks.that(nodes.contains(&"/dev/nvidia0") && nodes.contains(&"/dev/nvidia1"), format!("{nodes:?}"));
    // A process of the container hangs in the driver, and no signal ends it: the guest ends
    // nevertheless, and reports how the program ended.
    let (_, console) = guest.wait_for_end(PATIENCE).unwrap();
    checks.has(&console, "some processes did not end within 2 s", "the console");
    checks.has(&console, "the container ended: exit code 3; exit status 3", "the console");
}
