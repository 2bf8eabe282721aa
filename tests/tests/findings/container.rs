//! Findings about the driver and the container's image. The GPU is the stub's, which becomes ready.

use super::failed;
use image::layout;
use image::status::{Code, Outcome, Severity};
use image::wire::Until;
use rig::disk::{self, FileSystem};
use rig::guest::Setup;
use rig::phantom::Model;
use rig::process::run;
use rig::qemu::Drive;
use rig::roots::{Recipe, Suite};
use rig::scene::{boot, file_disk, guest_with_stub, told, vm_tools, wait};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// An image of a glibc and one program, `/true`, which is static.
fn small_root(dir: &Path) -> PathBuf {
    let root = dir.join("root.d");
    fs::create_dir_all(root.join("usr/lib")).unwrap();
    let libc =
        Recipe::minbase(Suite::Bookworm).directory().unwrap().join("usr/lib/x86_64-linux-gnu/libc.so.6");
    fs::copy(libc, root.join("usr/lib/libc.so.6")).unwrap();
    compile(dir, "int main(void) { return 0; }\n", &root.join("true"), &["-static"]);
    root
}

fn compile(dir: &Path, source: &str, output: &Path, options: &[&str]) {
    let file = dir.join("source.c");
    fs::write(&file, source).unwrap();
    run(Command::new("cc").arg("-o").arg(output).arg(file).args(options)).unwrap();
}

fn disk_of(root: &Path, kind: FileSystem) -> PathBuf {
    let image = root.with_extension("image");
    disk::make(vm_tools(), kind, root, &image).unwrap();
    image
}

fn with_gpu() -> Setup {
    guest_with_stub().gpu(Model::H100).cmdline("HAS_GPU=1 gpu_initrd.linger=120s")
}

#[test]
fn shadowed_library_and_missing_capability_are_findings() {
    let dir = tempfile::tempdir().unwrap();
    let root = small_root(dir.path());
    fs::create_dir_all(root.join("opt/old")).unwrap();
    let options = ["-shared", "-fPIC", "-nostdlib", "-Wl,-soname,libcuda.so.1"];
    compile(dir.path(), "int stale = 1;\n", &root.join("opt/old/libcuda.so.1"), &options);
    let env = serde_json::json!({
        "LD_LIBRARY_PATH": "/opt/old",
        "NVIDIA_DRIVER_CAPABILITIES": "compute,utility,graphics",
    });
    let config = serde_json::json!({ "entrypoint": ["/true"], "env": env }).to_string();
    let setup = with_gpu()
        .disk(&disk_of(&root, FileSystem::Erofs), "root")
        .disk(&file_disk(dir.path(), "config", layout::CONFIG_FILE, &config), "config")
        .cmdline("gpu_initrd.driver_files=keep");
    let status = wait(&boot(setup), Until::Ready);
    assert_eq!(status.outcome, Outcome::Ready, "{status:#?}");
    let shadowed = told(&status, Code::LibraryShadowed, Severity::Warning, "");
    assert!(shadowed.message.contains("opens /opt/old/libcuda.so.1"), "{shadowed:?}");
    let missing = told(&status, Code::CapabilityMissing, Severity::Warning, "");
    assert!(missing.message.contains("graphics") && missing.hint.contains("--capabilities"), "{missing:?}");
}

#[test]
fn directory_in_place_of_the_loader_cache_ends_the_boot() {
    let dir = tempfile::tempdir().unwrap();
    let root = small_root(dir.path());
    fs::create_dir_all(root.join("etc/ld.so.cache/in-the-way")).unwrap();
    let status = failed(with_gpu().disk(&disk_of(&root, FileSystem::Erofs), "root"));
    let failed = told(&status, Code::CacheFailed, Severity::Error, "");
    assert!(failed.message.contains("/etc/ld.so.cache"), "{failed:?}");
}

#[test]
fn file_in_place_of_a_directory_ends_the_boot() {
    let dir = tempfile::tempdir().unwrap();
    let root = small_root(dir.path());
    fs::write(root.join("usr/bin"), "").unwrap();
    let image = disk_of(&root, FileSystem::Ext4);
    let env = serde_json::json!({ "NVIDIA_DRIVER_CAPABILITIES": "utility" });
    let config = serde_json::json!({ "entrypoint": ["/true"], "env": env }).to_string();
    let setup = with_gpu()
        .drive(Drive { image, read_only: false, serial: "root".into() })
        .disk(&file_disk(dir.path(), "config", layout::CONFIG_FILE, &config), "config")
        .cmdline("gpu_initrd.upper=none");
    let status = failed(setup);
    let failed = told(&status, Code::InjectFailed, Severity::Error, "");
    assert!(failed.message.contains("/usr/bin"), "{failed:?}");
}
