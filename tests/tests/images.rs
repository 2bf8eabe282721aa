//! Container images that are not made for this driver, or not made as Debian's are, each booted
//! with a GPU: what they get, what is hidden from them, and the findings. The GPUs are the stub
//! driver's, which become ready.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
};

use image::layout;
use image::status::{Code, Outcome, Severity, Status};
use image::wire::Until;
use rig::build::initrd_for_disk;
use rig::checks::Checks;
use rig::disk::{self, FileSystem};
use rig::guest::Setup;
use rig::phantom::Model;
use rig::process::run;
use rig::qemu::Drive;
use rig::roots::{Recipe, Suite};
use rig::scene::{PATIENCE, between, boot, file_disk, finding, guest_with_stub, root_disk, vm_tools, wait};

/// Shows which library files the loader opens.
const OPEN: &str = "dlopen libcuda.so.1 libcuda.so libnvidia-ml.so.1";
const LIB: &str = "usr/lib/x86_64-linux-gnu";

/// A disk with a config.json.
fn config(dir: &Path, name: &str, script: &str, env: &[(&str, &str)]) -> PathBuf {
    let env: BTreeMap<_, _> = env.iter().copied().collect();
    let json =
        serde_json::json!({ "entrypoint": ["/bin/sh", "-c", format!("{script}; echo end")], "env": env });
    file_disk(dir, name, layout::CONFIG_FILE, &json.to_string())
}

/// A guest with one ready GPU.
fn with_gpu() -> Setup {
    guest_with_stub().gpu(Model::H100).cmdline("HAS_GPU=1 nvidia.gpus=1 gpu_initrd.linger=120s")
}

/// Boots to the end of the container, or of the boot. Returns console and status.
fn to_the_end(setup: Setup) -> (String, Status) {
    let guest = boot(setup);
    let status = wait(&guest, Until::Exited);
    (guest.console(), status)
}

/// Compiles C source.
fn compile(source: &str, output: &Path, options: &[&str]) {
    fs::create_dir_all(output.parent().unwrap()).unwrap();
    let file = output.with_extension("c-source.c");
    fs::write(&file, source).unwrap();
    run(Command::new("cc").args(["-O1", "-o"]).arg(output).arg(&file).args(options)).unwrap();
    fs::remove_file(file).unwrap();
}

/// A library that has nothing but a SONAME.
fn library(path: &Path, soname: &str) {
    compile("int stale = 1;\n", path, &["-shared", "-fPIC", "-nostdlib", &format!("-Wl,-soname,{soname}")]);
}

fn copy_of(suite: Suite, dir: &Path) -> PathBuf {
    let root = dir.join("root.d");
    run(Command::new("cp").arg("-a").arg(Recipe::minbase(suite).directory().unwrap()).arg(&root)).unwrap();
    root
}

fn image(root: &Path, kind: FileSystem) -> PathBuf {
    let image = root.with_extension("image");
    disk::make(vm_tools(), kind, root, &image).unwrap();
    image
}

/// Every library that the probe opened, by name.
fn opened(lines: &[String]) -> BTreeMap<&str, &str> {
    lines.iter().filter_map(|line| line.split_once(' ')).filter(|(name, _)| name.starts_with("lib")).collect()
}

#[test]
fn old_driver_never_wins_and_the_requested_gpu_is_visible() {
    let dir = tempfile::tempdir().unwrap();
    let root = copy_of(Suite::Trixie, dir.path());
    for (path, soname) in [
        ("libcuda.so.999.54.03", "libcuda.so.1"),
        ("libnvidia-ml.so.999.54.03", "libnvidia-ml.so.1"),
        // Not the driver's: they stay.
        ("libcudart.so.12", "libcudart.so.12"),
    ] {
        library(&root.join(LIB).join(path), soname);
    }
    symlink("libcuda.so.999.54.03", root.join(LIB).join("libcuda.so.1")).unwrap();
    library(&root.join("opt/old/libcuda.so.1"), "libcuda.so.1");
    fs::write(root.join("opt/old/libnvidia-ml.so.1"), "").unwrap();
    library(&root.join("usr/local/cuda/compat/libcuda.so.535.54.03"), "libcuda.so.1");

    let script = format!(
        "echo before; {OPEN}; echo ldconfig; ldconfig; {OPEN}; echo list; ls /{LIB} | grep -e cuda -e nvidia-encode; echo nodes; ls /dev | grep 'nvidia[0-9]'"
    );
    let env = [
        ("LD_LIBRARY_PATH", "/opt/old"),
        ("NVIDIA_VISIBLE_DEVICES", "1"),
        ("NVIDIA_DRIVER_CAPABILITIES", "compute,utility"),
        ("NVIDIA_REQUIRE_CUDA", "cuda>=12.4 brand=tesla,driver>=535,driver<536"),
    ];
    let setup = guest_with_stub()
        .disk(&image(&root, FileSystem::Erofs), "root")
        .disk(&config(dir.path(), "config", &script, &env), "config")
        .gpu(Model::H100)
        .gpu(Model::H100)
        .cmdline("HAS_GPU=1 nvidia.gpus=2 gpu_initrd.linger=120s");
    let (console, status) = to_the_end(setup);

    let mut checks = Checks::of(&console);
    let before = between(&console, "before", "ldconfig");
    let found = opened(&before);
    for name in ["libcuda.so.1", "libcuda.so", "libnvidia-ml.so.1"] {
        // The loader shows a library that is open already under its first name.
        let file = if name == "libcuda.so" { "libcuda.so.1" } else { name };
        checks.same(found.get(name), Some(&&*format!("/lib/x86_64-linux-gnu/{file}")), name);
    }
    let after = between(&console, "ldconfig", "list");
    checks.same(opened(&after), found, "also after the user's ldconfig");
    let listed = between(&console, "list", "nodes");
    checks.that(listed.contains(&"libcudart.so.12".to_owned()), format!("{listed:?}"));
    checks.that(listed.iter().all(|name| !name.contains("999")), format!("{listed:?}"));
    checks.same(between(&console, "nodes", "end"), ["nvidia1"], "nodes");

    let driver = initrd_for_disk().driver();
    let bundled = finding(&status, Code::ImageBundlesDriver);
    checks.same(bundled.severity, Severity::Info, "severity");
    checks.has(&bundled.message, "999.54.03", "the other driver");
    checks.has(&bundled.message, driver, "this driver");
    checks.has(&bundled.evidence.join("\n"), "/opt/old/libnvidia-ml.so.1", "evidence");
    checks.has(&finding(&status, Code::CudaCompat).message, "not used", "CUDA's compatibility libraries");
    for resolved in &status.resolved {
        let found = (resolved.ours, resolved.version.as_deref());
        checks.same(found, (true, Some(driver)), &resolved.name);
    }
    checks.same(status.outcome, Outcome::Ready, "outcome");
}

#[test]
fn unmet_requirements_and_refused_images_end_the_boot() {
    let dir = tempfile::tempdir().unwrap();
    let setup = |name: &str, env: &[(&str, &str)], root: &Path| {
        with_gpu().disk(root, "root").disk(&config(dir.path(), name, "true", env), "config")
    };
    let plain = root_disk(Suite::Bookworm, FileSystem::Erofs);
    let (_, status) = to_the_end(setup("a", &[("NVIDIA_REQUIRE_CUDA", "cuda>=99.0")], &plain));
    assert_eq!((status.outcome, &status.container), (Outcome::Failed, &None));
    let unmet = finding(&status, Code::CudaRequirementUnmet);
    assert!(unmet.message.contains("12.4") && unmet.evidence[0].contains("cuda>=99.0"), "{unmet:?}");

    let (_, status) = to_the_end(setup("b", &[("NVIDIA_DRIVER_CAPABILITIES", "compute,utilty")], &plain));
    assert!(finding(&status, Code::ConfigInvalid).message.contains("\"utilty\""), "{:?}", status.findings);

    let small = dir.path().join("small.d");
    library(&small.join("usr/lib/libcuda.so.535.54.03"), "libcuda.so.1");
    static_program(&small);
    fs::copy(recipe_file(Suite::Bookworm, &format!("{LIB}/libc.so.6")), small.join("usr/lib/libc.so.6"))
        .unwrap();
    let refuse = setup("c", &[], &image(&small, FileSystem::Erofs)).cmdline("gpu_initrd.driver_files=refuse");
    let (_, status) = to_the_end(refuse);
    assert_eq!(status.outcome, Outcome::Failed);
    let refused = finding(&status, Code::ImageBundlesDriver);
    assert_eq!((refused.severity, &*refused.evidence[0]), (Severity::Error, "/usr/lib/libcuda.so.535.54.03"));
}

fn recipe_file(suite: Suite, path: &str) -> PathBuf {
    Recipe::minbase(suite).directory().unwrap().join(path)
}

/// The only program of an image: lists /dev, and what is below /usr.
fn static_program(root: &Path) {
    let source = r#"
#include <dirent.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
static void list(const char *dir)
{
	DIR *d = opendir(dir);
	struct dirent *e;
	while (d && (e = readdir(d)))
		if (strstr(e->d_name, "nvidia") || strstr(e->d_name, "cuda"))
			printf("%s/%s\n", dir, e->d_name);
}
int main(void)
{
	puts("begin");
	list("/dev");
	list("/usr/lib");
	list("/usr/bin");
	puts("end");
	return 0;
}
"#;
    compile(source, &root.join("list"), &["-static"]);
}

#[test]
fn static_image_gets_device_nodes_only() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("scratch.d");
    static_program(&root);
    let setup = with_gpu().disk(&image(&root, FileSystem::Erofs), "root").cmdline("-- /list");
    let (console, status) = to_the_end(setup);
    let mut listed = between(&console, "begin", "end");
    listed.sort();
    assert!(listed.contains(&"/dev/nvidia0".to_owned()), "{console}");
    assert!(listed.iter().all(|path| path.starts_with("/dev/")), "{listed:?}");
    assert_eq!(status.outcome, Outcome::Ready);
    assert!(finding(&status, Code::ImageHasNoGlibc).message.contains("libc.so.6"), "{:?}", status.findings);
}

/// glibc in a store, a program that is built to search /run/opengl-driver, and nothing else: made
/// by hand, with Debian's glibc, whose loader is patched to search the store, as one built for it
/// does.
#[test]
fn program_of_a_nix_store_finds_the_driver() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("nix.d");
    // As long as the directory that it replaces in the loader.
    let store = "nix/store/00-glibc-2/lib";
    fs::create_dir_all(root.join(store)).unwrap();
    for name in
        ["ld-linux-x86-64.so.2", "libc.so.6", "libdl.so.2", "libpthread.so.0", "libm.so.6", "librt.so.1"]
    {
        fs::copy(recipe_file(Suite::Bookworm, &format!("{LIB}/{name}")), root.join(store).join(name))
            .unwrap();
    }
    let loader = root.join(store).join("ld-linux-x86-64.so.2");
    let mut bytes = fs::read(&loader).unwrap();
    let (from, to) = (format!("\0/{LIB}/\0"), format!("\0/{store}/\0"));
    let places: Vec<_> = (0..bytes.len()).filter(|at| bytes[*at..].starts_with(from.as_bytes())).collect();
    assert!(!places.is_empty() && from.len() == to.len(), "the loader has no {from:?}");
    for at in places {
        bytes[at..at + to.len()].copy_from_slice(to.as_bytes());
    }
    fs::write(&loader, bytes).unwrap();
    let probe = include_str!("../probe/dlopen.c");
    compile(
        probe,
        &root.join("bin/probe"),
        &[
            &format!("-Wl,--dynamic-linker=/{store}/ld-linux-x86-64.so.2"),
            &format!("-Wl,--enable-new-dtags,-rpath,/run/opengl-driver/lib:/{store}"),
        ],
    );
    let setup = with_gpu()
        .disk(&image(&root, FileSystem::Erofs), "root")
        .cmdline("-- /bin/probe libcuda.so.1 libnvidia-ml.so.1");
    let (console, status) = to_the_end(setup);
    for name in ["libcuda.so.1", "libnvidia-ml.so.1"] {
        assert!(console.contains(&format!("\n{name} /run/opengl-driver/lib/{name}\n")), "{console}");
    }
    assert!(
        finding(&status, Code::ImageIsNix).evidence[0]
            .contains("/bin/probe searches this directory (RUNPATH)"),
        "{:?}",
        status.findings
    );
}

/// A disk that boots many times, without an overlay.
#[test]
fn writable_root_gets_the_driver_once_and_atomically() {
    let dir = tempfile::tempdir().unwrap();
    let root = copy_of(Suite::Bookworm, dir.path());
    let disk = image(&root, FileSystem::Ext4);
    let setup = |name: &str, capabilities: &str| {
        let script = "echo begin; dlopen libnvidia-ml.so.1; find / -xdev -name '.gpu-initrd*'; set -- $(cat /sys/block/vda/stat); echo sectors $7";
        let env = [("NVIDIA_DRIVER_CAPABILITIES", capabilities)];
        with_gpu()
            .drive(Drive { image: disk.clone(), read_only: false, serial: "root".into() })
            .disk(&config(dir.path(), name, script, &env), "config")
            .cmdline("gpu_initrd.upper=none")
    };
    // Until it has powered off: the next boot would write what this one has not.
    let to_the_power_off = |name: &str, capabilities: &str| {
        let mut guest = boot(setup(name, capabilities).cmdline("gpu_initrd.linger=5s"));
        let status = wait(&guest, Until::Exited);
        (guest.wait_for_end(PATIENCE).unwrap().1, status)
    };
    let boot_once = |name: &str| {
        let (console, status) = to_the_power_off(name, "utility");
        assert_eq!(status.outcome, Outcome::Ready, "{:?}", status.findings);
        let lines = between(&console, "begin", "end");
        assert_eq!(lines[0], "libnvidia-ml.so.1 /lib/x86_64-linux-gnu/libnvidia-ml.so.1", "{console}");
        assert_eq!(lines.len(), 2, "nothing temporary is left: {lines:?}");
        lines[1].split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 512
    };
    let first = boot_once("first");
    assert!(first > 2 << 20, "{first} bytes written at the first boot");
    let second = boot_once("second");
    assert!(second < 256 << 10, "{second} bytes written at the second boot, which has nothing to copy");

    // All of CUDA does not fit.
    let (_, status) = to_the_power_off("full", "compute,utility");
    assert_eq!((status.outcome, &status.container), (Outcome::Failed, &None));
    let full = finding(&status, Code::NoSpace);
    assert!(full.message.contains("bytes needed") && full.message.contains("free"), "{full:?}");
    let third = boot_once("third");
    assert!(third < 256 << 10, "{third} bytes written: something was half-done before");
}

#[test]
fn read_only_root_without_an_overlay_is_reported() {
    let setup = with_gpu()
        .disk(&root_disk(Suite::Bookworm, FileSystem::Erofs), "root")
        .cmdline("gpu_initrd.upper=none -- true");
    let (_, status) = to_the_end(setup);
    let unusable = finding(&status, Code::RootUnusable);
    assert!(
        unusable.message.contains("upper=none") && unusable.message.contains("read-only"),
        "{unusable:?}"
    );
}

/// Debian compiles some programs of the driver itself, for its own glibc: in an image with an older
/// one they could not start.
#[test]
fn files_too_new_for_debian_11_are_left_out_and_reported() {
    let dir = tempfile::tempdir().unwrap();
    let script = "echo begin; cd /usr/bin; ls -1 nvidia-*; nvidia-smi --help >/dev/null && echo starts";
    let setup = with_gpu()
        .disk(&root_disk(Suite::Bullseye, FileSystem::Erofs), "root")
        .disk(&config(dir.path(), "config", script, &[]), "config");
    let (console, status) = to_the_end(setup);
    let printed = between(&console, "begin", "end");
    let has = |name: &str| printed.iter().any(|line| line == name);
    assert!(has("nvidia-smi") && has("starts") && !has("nvidia-modprobe"), "{console}");
    let told = finding(&status, Code::LibcTooOld);
    assert_eq!(told.severity, Severity::Info);
    assert!(told.message.contains("the image has glibc 2.31"), "{told:?}");
    assert!(
        told.evidence.iter().any(|line| line.contains("nvidia-modprobe requires glibc 2.34")),
        "{told:?}"
    );
}
