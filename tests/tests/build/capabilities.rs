//! An image with every capability, 32-bit libraries too, from Debian's real packages of the driver: its content. Whether the table of driver
//! files lists everything in these packages, and in those of the default driver.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io::Read,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::OnceLock,
};

use host_builder::artifacts::tree::Tree;
use host_builder::pins::lock::{Lock, Set};
use image::{
    capability::{Capability, TABLE, classify},
    layout,
    manifest::{File as Entry, Kind, Manifest},
    requirement::Facts,
};
use rig::build::{cache, default_initrd, program};

/// Files of the driver's packages that are never packed, and why.
const LEFT_OUT: &[(&str, &str)] = &[
    ("nvidia-bug-report.sh", "collects the logs of a host"),
    ("nvidia.ids", "a list of devices for Debian's scripts"),
    ("nvngx.dll", "for Windows programs in Wine; the toolkit leaves it out too"),
    ("_nvngx.dll", "for Windows programs in Wine; the toolkit leaves it out too"),
    ("nvidia-persistenced.service", "a service of a host"),
    ("nvidia-smi.1.gz", "a manual"),
    ("sandboxutils-filelist.json", "the driver's own list of these files"),
    ("nvidia_icd_vksc.json", "for Vulkan SC, of vehicles"),
];

/// The whole image, made once for all tests of this process.
struct All {
    _directory: tempfile::TempDir,
    initrd: PathBuf,
    lock: Lock,
    lock_file: PathBuf,
    report: serde_json::Value,
}

fn all() -> &'static All {
    static ALL: OnceLock<All> = OnceLock::new();
    ALL.get_or_init(|| {
        let directory = tempfile::Builder::new().prefix("gpu-rig-all-").tempdir().unwrap();
        let lock = cache().unwrap().room("rig").unwrap().join("all.lock");
        let mut output = build(&directory, &lock, &[]);
        // Its packages may be gone.
        if String::from_utf8_lossy(&output.stderr).contains("--update-lock") {
            output = build(&directory, &lock, &["--update-lock"]);
        }
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        All {
            initrd: directory.path().join("initrd.img"),
            lock: Lock::read(&lock).unwrap().unwrap(),
            lock_file: lock,
            report: serde_json::from_slice(&output.stdout).unwrap(),
            _directory: directory,
        }
    })
}

fn build(directory: &tempfile::TempDir, lock: &Path, more: &[&str]) -> Output {
    let mut command = Command::new(program());
    command
        .args(["build-initrd", "--json", "--driver", "550", "--capabilities", "all", "--payload", "files"])
        .args(["--compression", "zstd:1"])
        .args(more)
        .arg("--lock")
        .arg(lock);
    command.arg("--output").arg(directory.path().join("initrd.img"));
    command.arg("--kernel-output").arg(directory.path().join("vmlinuz"));
    command.stdin(Stdio::null()).output().unwrap()
}

/// What the image unpacks to.
pub fn tree() -> &'static Path {
    static TREE: OnceLock<tempfile::TempDir> = OnceLock::new();
    TREE.get_or_init(|| {
        let directory = tempfile::Builder::new().prefix("gpu-rig-tree-").tempdir().unwrap();
        let mut command = Command::new(program());
        command.arg("extract").arg(&all().initrd).arg("--to").arg(directory.path());
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        directory
    })
    .path()
}

/// The manifest, and the first bytes of every file.
fn packed() -> &'static (Manifest, BTreeMap<String, Vec<u8>>) {
    static PACKED: OnceLock<(Manifest, BTreeMap<String, Vec<u8>>)> = OnceLock::new();
    PACKED.get_or_init(|| {
        let in_tree = |path: &str| tree().join(path.trim_start_matches('/'));
        let manifest = Manifest::from_json(&std::fs::read(in_tree(layout::MANIFEST)).unwrap()).unwrap();
        let files = manifest.files.iter().filter(|file| matches!(file.kind, Kind::File { .. }));
        let head = |file: &Entry| {
            let mut bytes = Vec::new();
            File::open(in_tree(&file.path)).unwrap().take(256).read_to_end(&mut bytes).unwrap();
            (file.path.clone(), bytes)
        };
        let heads = files.map(head).collect();
        (manifest, heads)
    })
}

/// The manifest of the image with every capability.
pub fn manifest() -> &'static Manifest {
    &packed().0
}

fn entry(path: &str) -> &'static Entry {
    let found = packed().0.files.iter().find(|file| file.path == path);
    found.unwrap_or_else(|| panic!("{path} is not in the image"))
}

/// The lock of Debian's driver.
pub fn lock() -> &'static Path {
    &all().lock_file
}

/// Version of Debian's driver.
pub fn driver() -> &'static str {
    &all().lock.driver
}

/// The lock of the default driver, and the names of the files in an image with every capability; 64 bits only.
fn of_default() -> (Lock, BTreeSet<String>) {
    let every: Vec<_> = Capability::ALL.into_iter().filter(|of| *of != Capability::Compat32).collect();
    let every = every.iter().map(|of| of.name()).collect::<Vec<_>>().join(",");
    let lock = &default_initrd().lock;
    let mut command = Command::new(program());
    command.args(["build-initrd", "--dry-run", "--json", "--capabilities", &every, "--payload", "files"]);
    let output = command.arg("--lock").arg(lock).stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let files = Manifest::from_json(&output.stdout).unwrap().files;
    let packed = files.iter().map(|file| base_name(&file.path).to_owned()).collect();
    (Lock::read(lock).unwrap().unwrap(), packed)
}

fn trees(lock: &Lock, sets: &[Set]) -> Vec<Tree> {
    let cache = cache().unwrap();
    lock.sets(sets).into_iter().map(|artifact| Tree::of(&cache, artifact).unwrap()).collect()
}

fn base_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap()
}

/// Files of packages that are neither in the table nor left out.
fn unknown_files(lock: &Lock, sets: &[Set]) -> Vec<String> {
    let mut unknown = Vec::new();
    for tree in trees(lock, sets) {
        for file in &tree.files {
            let documentation = file.path.starts_with("usr/share/") && {
                let part = file.path.split('/').nth(2).unwrap();
                ["doc", "man", "bug", "lintian", "doc-base"].contains(&part)
                    || file.path.ends_with("-key-documentation")
            };
            let name = base_name(&file.path);
            let is_left_out = LEFT_OUT.iter().any(|(left, _)| *left == name);
            if !documentation && !is_left_out && classify(name, &lock.driver).is_none() {
                unknown.push(format!("{} of {}", file.path, tree.origin));
            }
        }
    }
    unknown
}

/// Rows of the table that no package has.
fn absent_rows(lock: &Lock, sets: &[Set]) -> Vec<String> {
    let trees = trees(lock, sets);
    let names: Vec<_> = trees.iter().flat_map(|tree| &tree.files).map(|file| base_name(&file.path)).collect();
    let required = TABLE.iter().filter(|row| row.required);
    let absent = required.filter(|row| !names.iter().any(|name| row.is(name, &lock.driver)));
    absent.map(|row| format!("{row:?}")).collect()
}

#[test]
fn table_lists_every_file_of_the_driver_packages() {
    let every = Capability::ALL.into_iter().collect();
    let (native, compat32) = (Set::userspace(&every), Set::compat32(&every));
    assert_eq!(unknown_files(&all().lock, &[native.clone(), compat32].concat()), [""; 0]);
    // That driver has a list of its own, with files that are in no table.
    let (lock, packed) = of_default();
    let mut unknown = unknown_files(&lock, &native);
    unknown.retain(|file| !packed.contains(base_name(file.split(' ').next().unwrap())));
    assert_eq!(unknown, [""; 0]);
}

#[test]
fn packages_have_every_file_that_the_table_requires() {
    let native = Set::userspace(&Capability::ALL.into_iter().collect());
    assert_eq!(absent_rows(&all().lock, &native), [""; 0]);
    assert_eq!(absent_rows(&of_default().0, &native), [""; 0]);
}

#[test]
fn every_capability_has_files_classified_as_in_the_table() {
    let manifest = &packed().0;
    assert_eq!(manifest.capabilities, Capability::ALL.map(Capability::name));
    for capability in Capability::ALL {
        assert!(
            manifest.files.iter().any(|file| file.capabilities.contains(&capability)),
            "{capability} is empty"
        );
    }
    for file in manifest.files.iter().filter(|file| !file.capabilities.is_empty()) {
        assert!(file.capabilities.is_sorted() && file.reason.starts_with("capabilit"), "{file:?}");
        assert_eq!(
            file.path.starts_with(layout::DRIVER_LIB32_DIR),
            file.capabilities.contains(&Capability::Compat32),
            "{file:?}"
        );
        let Some(row) = classify(base_name(&file.path), driver()) else {
            assert!(matches!(file.kind, Kind::Link { .. }), "{file:?}");
            continue;
        };
        let native: Vec<_> =
            file.capabilities.iter().copied().filter(|c| *c != Capability::Compat32).collect();
        assert_eq!(native, row.capabilities, "{file:?}");
    }
}

#[test]
fn libraries_match_the_word_size_of_their_directory() {
    let (mut wide, mut narrow) = (0, 0);
    for (path, head) in &packed().1 {
        let class = match head.get(..5) {
            Some([0x7f, b'E', b'L', b'F', class]) => *class,
            _ => continue,
        };
        if path.starts_with(layout::DRIVER_LIB32_DIR) {
            assert_eq!((class, head[18]), (1, 3), "{path} is not of 32 bits");
            narrow += 1;
        } else {
            assert_eq!(class, 2, "{path} is not of 64 bits");
            wide += 1;
        }
    }
    assert!(wide > 40 && narrow > 20, "{wide} and {narrow}");
    let of_32 = packed().0.files.iter().filter(|file| file.path.starts_with("/usr/lib32/nvidia/lib"));
    assert!(of_32.into_iter().all(|file| file.origin.contains(":i386 ")));
}

/// NVIDIA's table has 12.4 for branch 550, as the driver's PTX compiler has.
#[test]
fn cuda_version_is_read_from_the_driver_files() {
    let cuda = packed().0.driver.as_ref().unwrap().cuda.clone();
    assert_eq!(cuda, Facts::of_driver(driver(), None).cuda_in_words());
    assert_eq!(all().report["cuda"].as_str(), cuda.as_deref());
}

#[test]
fn data_files_are_at_their_container_paths() {
    for path in [
        "/etc/OpenCL/vendors/nvidia.icd",
        "/usr/share/vulkan/icd.d/nvidia_icd.json",
        "/usr/share/vulkan/implicit_layer.d/nvidia_layers.json",
        "/usr/share/glvnd/egl_vendor.d/10_nvidia.json",
        "/usr/share/egl/egl_external_platform.d/15_nvidia_gbm.json",
        "/usr/share/egl/egl_external_platform.d/10_nvidia_wayland.json",
        "/usr/share/nvidia/nvoptix.bin",
        "/usr/share/X11/xorg.conf.d/nvidia-drm-outputclass.conf",
        "/usr/lib/xorg/modules/drivers/nvidia_drv.so",
    ] {
        let entry = entry(&format!("{}{path}", layout::DRIVER_DATA_DIR));
        assert!(
            matches!(entry.kind, Kind::File { size, .. } if size > 0) && entry.mode == 0o644,
            "{entry:?}"
        );
    }
    let icd = &packed().1[&format!("{}/usr/share/vulkan/icd.d/nvidia_icd.json", layout::DRIVER_DATA_DIR)];
    assert!(String::from_utf8_lossy(icd).contains("\"library_path\": \"libGLX_nvidia.so.0\""));
}

#[test]
fn links_without_a_soname_are_packed() {
    let driver = driver();
    for directory in [layout::DRIVER_LIB_DIR, layout::DRIVER_LIB32_DIR] {
        for (path, target) in [
            ("gbm/nvidia-drm_gbm.so", "../libnvidia-allocator.so.1".to_owned()),
            ("vdpau/libvdpau_nvidia.so.1", format!("libvdpau_nvidia.so.{driver}")),
        ] {
            let entry = entry(&format!("{directory}/{path}"));
            assert_eq!(entry.kind, Kind::Link { target }, "{entry:?}");
            assert!(!entry.capabilities.is_empty(), "{entry:?}");
        }
    }
    let glx =
        entry(&format!("{}/usr/lib/xorg/modules/extensions/libglxserver_nvidia.so", layout::DRIVER_DATA_DIR));
    assert_eq!(glx.kind, Kind::Link { target: format!("libglxserver_nvidia.so.{driver}") });
}

#[test]
fn report_lists_libraries_that_a_container_must_bring() {
    let needs = all().report["needs"].as_array().unwrap();
    let need =
        |name: &str| needs.iter().find(|need| need["library"] == name).unwrap_or_else(|| panic!("{needs:?}"));
    assert!(need("libX11.so.6")["files"].as_array().unwrap().len() >= 6, "{needs:?}");
    let gbm = need("libgbm.so.1");
    assert_eq!(gbm["capabilities"], serde_json::json!(["compat32", "display", "graphics"]));
    // What is selected, and what every glibc container has, is not among them.
    assert!(needs.iter().all(|need| !need["library"].as_str().unwrap().contains("nvidia")), "{needs:?}");
    assert!(needs.iter().all(|need| need["library"] != "libc.so.6"), "{needs:?}");
}
