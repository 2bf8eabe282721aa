//! What is in the image.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use host_builder::common::digest::{sha256, sha256_file};
use host_builder::initramfs::cpio::kind;
use host_builder::initramfs::{Archive, Item, Want};
use host_builder::pins::lock::{Lock, Set};
use image::{
    layout,
    manifest::{Kind, Manifest},
};
use rig::build::default_initrd;

/// One entry of the archive.
struct Entry {
    path: String,
    mode: u32,
    content: Vec<u8>,
}

/// All entries, in order. A directory occurs once in each segment that has files in it.
fn entries(initrd: &Path) -> Vec<Entry> {
    let all = Archive::open(initrd).unwrap().read(&Want { digests: false, keep: &|_| true }).unwrap();
    let entry = |item: Item| Entry {
        path: format!("/{}", item.entry.text()),
        mode: item.entry.mode,
        content: item.content.or(item.target).unwrap_or_default(),
    };
    all.items.into_iter().map(entry).collect()
}

/// The manifest that an image carries.
pub fn manifest_bytes(initrd: &Path) -> Vec<u8> {
    rig::variant::Variant::of(initrd).unwrap().file(layout::MANIFEST).clone()
}

#[test]
fn initrd_contains_exactly_what_its_manifest_lists() {
    let entries = entries(&default_initrd().initrd);
    let mut packed: BTreeMap<_, _> = entries.iter().map(|entry| (&entry.path, entry)).collect();
    let manifest = packed.remove(&layout::MANIFEST.to_owned()).unwrap();
    let manifest = Manifest::from_json(&manifest.content).unwrap();
    assert_eq!(packed.len(), manifest.files.len());
    for (packed, planned) in packed.values().zip(&manifest.files) {
        assert_eq!(packed.path, planned.path);
        assert_eq!(packed.mode & 0o7777, planned.mode, "{}", packed.path);
        match &planned.kind {
            Kind::Directory => assert_eq!(packed.mode & kind::MASK, kind::DIRECTORY, "{}", packed.path),
            Kind::Link { target } => {
                assert_eq!(packed.mode & kind::MASK, kind::LINK, "{}", packed.path);
                assert_eq!(packed.content, target.as_bytes(), "{}", packed.path);
            }
            Kind::File { size, sha256: digest } => {
                assert_eq!(packed.mode & kind::MASK, kind::FILE, "{}", packed.path);
                assert_eq!(packed.content.len() as u64, *size, "{}", packed.path);
                assert_eq!(sha256(&packed.content), *digest, "{}", packed.path);
            }
        }
    }
}

#[test]
fn directories_come_before_their_content() {
    let mut seen = BTreeSet::from(["/".to_owned()]);
    for entry in entries(&default_initrd().initrd) {
        let parent = Path::new(&entry.path).parent().unwrap().to_str().unwrap().to_owned();
        assert!(seen.contains(&parent), "{} comes before its directory", entry.path);
        let directory = entry.mode & kind::MASK == kind::DIRECTORY;
        assert!(seen.insert(entry.path.clone()) || directory, "{} is there twice", entry.path);
    }
}

/// Programs of the default capabilities.
const PROGRAMS: [&str; 7] = [
    "nvidia-cuda-mps-control",
    "nvidia-cuda-mps-server",
    "nvidia-debugdump",
    "nvidia-modprobe",
    "nvidia-persistenced",
    "nvidia-smi",
    "nvidia-xconfig",
];
/// Libraries of the default capabilities, without `lib` and version.
const LIBRARIES: [&str; 10] = [
    "cuda",
    "cudadebugger",
    "nvidia-cfg",
    "nvidia-gpucomp",
    "nvidia-ml",
    "nvidia-nvvm",
    "nvidia-opencl",
    "nvidia-pkcs11",
    "nvidia-pkcs11-openssl3",
    "nvidia-ptxjitcompiler",
];

#[test]
fn files_are_at_the_paths_of_the_reference() {
    let built = default_initrd();
    let (release, driver) = (built.release(), built.driver());
    let data = "/usr/share/gpu-initrd/data";
    let mut expected = vec![
        "/init".to_owned(),
        format!("{data}/etc/OpenCL/vendors/nvidia.icd"),
        format!("{data}/usr/share/nvidia/nvidia-application-profiles-{driver}-rc"),
        // It has a version of its own.
        "/usr/lib/nvidia/libnvidia-nvvm70.so.4".into(),
    ];
    expected.extend(PROGRAMS.map(|name| format!("/usr/bin/{name}")));
    expected.extend(
        ["nvidia", "nvidia-uvm", "nvidia-modeset", "nvidia-drm"]
            .map(|name| format!("/lib/modules/{release}/kernel/drivers/gpu/{name}.ko")),
    );
    expected.extend(LIBRARIES.map(|name| format!("/usr/lib/nvidia/lib{name}.so.{driver}")));
    expected
        .extend(["gsp_ga10x", "gsp_tu10x"].map(|name| format!("/lib/firmware/nvidia/{driver}/{name}.bin")));
    let files = entries(&built.initrd).into_iter().filter(|entry| entry.mode & kind::MASK != kind::DIRECTORY);
    let paths: BTreeSet<_> = files.map(|entry| entry.path).collect();
    let absent: Vec<_> = expected.iter().filter(|path| !paths.contains(*path)).collect();
    assert!(absent.is_empty(), "{absent:?} not in {paths:?}");
    // Nothing else of the driver, and no shell, kmod, ldconfig or udev.
    for path in paths.iter().filter(|path| path.contains("nvidia")) {
        assert!(expected.contains(path), "{path} is in the image and not in the document");
    }
    let programs: Vec<_> = paths.iter().filter_map(|path| path.strip_prefix("/usr/bin/")).collect();
    assert_eq!(programs, PROGRAMS);
    assert!(!paths.iter().any(|path| path.contains("sbin/")), "{paths:?}");
}

/// The kernel unpacks segments of one frame with a window of at most 128 MiB, each at a multiple of
/// four bytes, and no others.
#[test]
fn kernel_can_unpack_the_initrd() {
    let bytes = fs::read(&default_initrd().initrd).unwrap();
    let (mut at, mut segments) = (0, 0);
    while at < bytes.len() {
        assert_eq!(at % 4, 0);
        let frame = &bytes[at..][..zstd::zstd_safe::find_frame_compressed_size(&bytes[at..]).unwrap()];
        let mut decoder = zstd::Decoder::new(frame).unwrap();
        decoder.window_log_max(27).unwrap();
        std::io::copy(&mut decoder, &mut std::io::sink()).unwrap();
        segments += 1;
        at += frame.len();
        at += bytes[at..].iter().take_while(|byte| **byte == 0).count();
    }
    assert_eq!(segments, 4, "driver, firmware, modules, init");
}

#[test]
fn kernel_image_equals_that_of_the_package() {
    let built = default_initrd();
    let lock = Lock::read(&built.lock).unwrap().unwrap();
    let cache = rig::build::cache().unwrap();
    let tree = host_builder::artifacts::tree::Tree::of(&cache, lock.set(Set::Kernel)[0]).unwrap();
    let file = tree.file(&format!("boot/vmlinuz-{}", built.release())).unwrap();
    assert_eq!(sha256_file(&built.kernel).unwrap(), file.sha256);
}
