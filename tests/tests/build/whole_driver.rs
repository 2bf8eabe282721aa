//! The whole driver, with every capability, in a real root with a 64-bit and a 32-bit glibc: by
//! copy, as the image's own tools see it.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    process::Command,
};

use guest_init::confined_fs::RootDir;
use guest_init::driver_files::{ContainerRequest, InjectReport, Inventory};
use guest_init::{driver_files, ldcache};
use image::capability::{Capability, requested};
use rig::{
    process::run,
    roots::{Recipe, Suite},
};

use super::capabilities;
use crate::oracle;

const LIB: &str = "usr/lib/x86_64-linux-gnu";
const LIB32: &str = "usr/lib/i386-linux-gnu";

/// A root and a driver that may be changed.
struct Ground {
    directory: tempfile::TempDir,
    root: RootDir,
    driver: RootDir,
}

impl Ground {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let (root, driver) = (directory.path().join("root"), directory.path().join("driver"));
        let recipe = Recipe::minbase(Suite::Trixie).with_i386().directory().unwrap();
        run(Command::new("cp").arg("-a").arg(recipe).arg(&root)).unwrap();
        std::fs::create_dir(&driver).unwrap();
        run(Command::new("cp").arg("-a").arg(capabilities::tree().join("usr")).arg(&driver)).unwrap();
        let (root, driver) = (RootDir::open(&root).unwrap(), RootDir::open(&driver).unwrap());
        Self { directory, root, driver }
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("root")
    }

    fn inject(&self, capabilities: BTreeSet<Capability>) -> InjectReport {
        let request = ContainerRequest { capabilities, ..ContainerRequest::default() };
        let inventory = Inventory::of_directory(&self.driver).unwrap();
        let mut report = driver_files::copy::copy(&self.root, &self.driver, &inventory, &request).unwrap();
        driver_files::complete(&self.root, &request, &mut report).unwrap();
        assert_eq!(report.findings(), []);
        assert_eq!(report.warnings, Vec::<String>::new());
        report
    }

    fn has(&self, path: impl AsRef<Path>) -> bool {
        self.path().join(path).exists()
    }
}

#[test]
fn every_capability_arrives_where_loaders_search() {
    let ground = Ground::new();
    let driver = capabilities::driver();
    ground.inject(BTreeSet::from(Capability::DEFAULT));
    assert!(ground.has(format!("{LIB}/libcuda.so.1")) && !ground.has(format!("{LIB32}/libcuda.so.1")));
    assert!(!ground.has(format!("{LIB}/libGLX_nvidia.so.0")));

    let report = ground.inject(requested(Some("all")).unwrap());
    for path in [
        format!("{LIB}/libcuda.so.{driver}"),
        format!("{LIB}/libGLX_nvidia.so.0"),
        format!("{LIB}/libnvidia-ngx.so.1"),
        format!("{LIB}/vdpau/libvdpau_nvidia.so.1"),
        format!("{LIB}/gbm/nvidia-drm_gbm.so"),
        format!("{LIB32}/libcuda.so.1"),
        format!("{LIB32}/libGLX_nvidia.so.0"),
        "etc/OpenCL/vendors/nvidia.icd".into(),
        "usr/share/vulkan/icd.d/nvidia_icd.json".into(),
        "usr/share/glvnd/egl_vendor.d/10_nvidia.json".into(),
        "usr/bin/nvidia-smi".into(),
    ] {
        assert!(ground.has(&path), "{path} is not there, or leads nowhere");
    }
    // What the guest wrote is what the root's own ldconfig writes, 32-bit entries and all.
    oracle::compare(&ground.path());
    let written = std::fs::read(ground.path().join("etc/ld.so.cache")).unwrap();
    let cache = ldcache::read(&written).unwrap();
    let kinds: BTreeSet<i32> =
        cache.entries.iter().filter(|entry| entry.key == b"libcuda.so.1").map(|entry| entry.flags).collect();
    assert_eq!(kinds, BTreeSet::from([0x003, 0x303]));
    assert!(report.resolved.iter().all(|found| found.expected), "{:?}", report.resolved);

    // Back to less: what was more is removed, and nothing of the image's.
    let report = ground.inject(BTreeSet::from(Capability::DEFAULT));
    assert!(report.removed.iter().any(|path| path.ends_with("libGLX_nvidia.so.0")), "{:?}", report.removed);
    assert!(!ground.has(format!("{LIB32}/libcuda.so.1")) && ground.has(format!("{LIB32}/libc.so.6")));
    oracle::compare(&ground.path());
}

/// The guest does not read these files again: what the manifest says about them is all that it knows.
#[test]
fn the_manifest_has_the_facts_of_every_driver_file() {
    let ground = Ground::new();
    let of_files = Inventory::of_directory(&ground.driver).unwrap();
    let of_manifest = Inventory::of_manifest(capabilities::manifest());
    let known = of_files.files.iter().map(|file| (&file.place, file)).collect::<BTreeMap<_, _>>();
    let mut libraries = 0;
    for file in &of_manifest.files {
        let found = known.get(&file.place).unwrap_or_else(|| panic!("{file:?} is not in the directory"));
        assert_eq!((&file.link, &file.soname), (&found.link, &found.soname), "{file:?}");
        assert_eq!((file.size, file.glibc), (found.size, found.glibc), "{file:?}");
        libraries += usize::from(file.soname.is_some() && file.glibc.is_some());
    }
    assert!(libraries > 40, "{libraries}");
}
