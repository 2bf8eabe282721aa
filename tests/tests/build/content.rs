//! What is in the image, read back by our own reader and by the real cpio.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{Read, Write},
    path::Path,
    process::{Command, Stdio},
};

use host_builder::{
    cache::{sha256, sha256_file},
    lock::{Lock, Set},
};
use image::{
    cpio::{Reader, kind},
    layout,
    manifest::{Kind, Manifest},
};
use rig::build::initrd;

/// One entry of the archive.
struct Entry {
    path: String,
    mode: u32,
    content: Vec<u8>,
}

fn entries(initrd: &Path) -> Vec<Entry> {
    let mut reader = Reader::new(zstd::Decoder::new(File::open(initrd).unwrap()).unwrap());
    let mut entries = Vec::new();
    while let Some(entry) = reader.next_entry().unwrap() {
        let mut content = Vec::new();
        reader.read_to_end(&mut content).unwrap();
        entries.push(Entry { path: format!("/{}", entry.text()), mode: entry.mode, content });
    }
    entries
}

/// The manifest that an image carries.
pub fn manifest_bytes(initrd: &Path) -> Vec<u8> {
    rig::variant::Variant::of(initrd).unwrap().file(layout::MANIFEST).clone()
}

#[test]
fn the_image_holds_exactly_what_its_manifest_says() {
    let entries = entries(&initrd().initrd);
    let (manifest, packed): (Vec<_>, Vec<_>) =
        entries.iter().partition(|entry| entry.path == layout::MANIFEST);
    let manifest = Manifest::from_json(&manifest[0].content).unwrap();
    assert_eq!(packed.len(), manifest.files.len());
    for (packed, planned) in packed.iter().zip(&manifest.files) {
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
fn every_directory_comes_before_what_is_in_it() {
    let mut seen = BTreeSet::from(["/".to_owned()]);
    for entry in entries(&initrd().initrd) {
        let parent = Path::new(&entry.path).parent().unwrap().to_str().unwrap().to_owned();
        assert!(seen.contains(&parent), "{} comes before its directory", entry.path);
        assert!(seen.insert(entry.path.clone()), "{} is there twice", entry.path);
    }
}

/// Programs of the default capabilities.
const PROGRAMS: [&str; 6] = [
    "nvidia-cuda-mps-control",
    "nvidia-cuda-mps-server",
    "nvidia-debugdump",
    "nvidia-modprobe",
    "nvidia-persistenced",
    "nvidia-smi",
];
/// Libraries of the default capabilities, without `lib` and version.
const LIBRARIES: [&str; 10] = [
    "cuda",
    "cudadebugger",
    "nvidia-allocator",
    "nvidia-cfg",
    "nvidia-gpucomp",
    "nvidia-ml",
    "nvidia-nvvm",
    "nvidia-opencl",
    "nvidia-pkcs11-openssl3",
    "nvidia-ptxjitcompiler",
];

#[test]
fn files_are_where_the_reference_document_puts_them() {
    let built = initrd();
    let (release, driver) = (built.release(), built.driver());
    let mut expected =
        vec!["/init".to_owned(), "/usr/share/gpu-initrd/data/etc/OpenCL/vendors/nvidia.icd".into()];
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
    // Nothing of the driver beside that, and no shell, kmod, ldconfig or udev.
    for path in paths.iter().filter(|path| path.contains("nvidia")) {
        assert!(expected.contains(path), "{path} is in the image and not in the document");
    }
    let programs: Vec<_> = paths.iter().filter_map(|path| path.strip_prefix("/usr/bin/")).collect();
    assert_eq!(programs, PROGRAMS);
    assert!(!paths.iter().any(|path| path.contains("sbin/")), "{paths:?}");
}

#[test]
fn the_real_cpio_lists_the_same() {
    let entries = entries(&initrd().initrd);
    let mut archive = Vec::new();
    zstd::Decoder::new(File::open(&initrd().initrd).unwrap()).unwrap().read_to_end(&mut archive).unwrap();
    let mut cpio = Command::new("cpio");
    cpio.args(["--list", "--quiet"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut cpio = cpio.spawn().expect("package cpio: ./tests/run installs it");
    let mut input = cpio.stdin.take().unwrap();
    let writer = std::thread::spawn(move || input.write_all(&archive));
    let output = cpio.wait_with_output().unwrap();
    writer.join().unwrap().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    let listed = String::from_utf8(output.stdout).unwrap();
    let ours: Vec<_> = entries.iter().map(|entry| entry.path.trim_start_matches('/')).collect();
    assert_eq!(listed.lines().collect::<Vec<_>>(), ours);
}

/// The kernel unpacks one frame with a window of at most 128 MiB, and no other.
#[test]
fn the_kernel_can_unpack_it() {
    let bytes = fs::read(&initrd().initrd).unwrap();
    assert_eq!(zstd::zstd_safe::find_frame_compressed_size(&bytes), Ok(bytes.len()));
    let mut decoder = zstd::Decoder::new(&bytes[..]).unwrap();
    decoder.window_log_max(27).unwrap();
    std::io::copy(&mut decoder, &mut std::io::sink()).unwrap();
}

#[test]
fn the_kernel_image_is_that_of_the_package() {
    let built = initrd();
    let lock = Lock::read(&built.lock).unwrap().unwrap();
    let cache = rig::build::cache().unwrap();
    let tree = host_builder::trees::Tree::of(&cache, lock.set(Set::Kernel)[0]).unwrap();
    let file = tree.file(&format!("boot/vmlinuz-{}", built.release())).unwrap();
    assert_eq!(sha256_file(&built.kernel).unwrap(), file.sha256);
}
