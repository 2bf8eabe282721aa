mod copy;
mod graphics;
mod images;
mod overlay;
mod trees;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};

use image::capability::Capability;
use image::config::DriverFiles;
use image::status::{Code, Severity};

use super::copy::copy as copy_in;
use super::layer::{LayerPlace, layer as layer_of};
use super::*;
use crate::confined_fs::RootDir;
use crate::ldcache;

/// The smallest library of this machine: a header, a dynamic section, its strings.
fn library(soname: &str) -> Vec<u8> {
    let machine: u16 = if cfg!(target_arch = "aarch64") { 183 } else { 62 };
    let mut out = vec![0_u8; 64];
    out[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
    out[16..18].copy_from_slice(&3_u16.to_le_bytes());
    out[18..20].copy_from_slice(&machine.to_le_bytes());
    out[32] = 64;
    out[54] = 56;
    out[56] = 2;
    let strings_at = 64 + 2 * 56 + 48_u64;
    let end = strings_at + 2 + soname.len() as u64;
    for (kind, at, len) in [(1_u32, 0, end), (2, 176, 48)] {
        out.extend(kind.to_le_bytes());
        out.extend(4_u32.to_le_bytes());
        for word in [at, at, at, len, len, 8] {
            out.extend(u64::to_le_bytes(word));
        }
    }
    for word in [14, 1, 5, strings_at, 0, 0] {
        out.extend(u64::to_le_bytes(word));
    }
    out.push(0);
    out.extend(soname.as_bytes());
    out.push(0);
    out
}

struct Fixture {
    dir: tempfile::TempDir,
    root: RootDir,
    driver: RootDir,
    lib: PathBuf,
}

impl Fixture {
    fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn copy(&self, request: &ContainerRequest) -> Result<InjectReport, InjectError> {
        let mut report = copy_in(&self.root, &self.driver, &Inventory::of_directory(&self.driver)?, request)?;
        complete(&self.root, request, &mut report)?;
        Ok(report)
    }

    fn layer(&self, request: &ContainerRequest) -> Result<InjectReport, InjectError> {
        let inventory = Inventory::of_directory(&self.driver)?;
        layer_of(&self.root, &self.driver, &inventory, request, LayerPlace::Links(&self.at("layer")), None)
    }
}

/// What a container gets that asks for nothing.
fn request() -> ContainerRequest {
    ContainerRequest { capabilities: BTreeSet::from(Capability::DEFAULT), ..ContainerRequest::default() }
}

/// Fills a directory with a driver.
fn make_driver(driver: &Path, version: &str) {
    fs::create_dir_all(driver.join("usr/lib/nvidia")).unwrap();
    fs::create_dir_all(driver.join("usr/bin")).unwrap();
    for (stem, soname) in [
        ("libcuda", "libcuda.so.1"),
        ("libnvidia-ml", "libnvidia-ml.so.1"),
        ("libnvidia-nvvm", "libnvidia-nvvm.so.4"),
        ("libnvidia-gpucomp", &format!("libnvidia-gpucomp.so.{version}")),
        ("libnvidia-encode", "libnvidia-encode.so.1"),
    ] {
        fs::write(driver.join(format!("usr/lib/nvidia/{stem}.so.{version}")), library(soname)).unwrap();
    }
    fs::write(driver.join("usr/lib/nvidia/libnvidia-nvvm70.so.4"), library("libnvidia-nvvm70.so.4")).unwrap();
    fs::write(driver.join("usr/lib/nvidia/README"), "no library").unwrap();
    fs::write(driver.join("usr/bin/nvidia-smi"), format!("program of {version}")).unwrap();
    fs::write(driver.join("usr/bin/nvidia-modprobe"), "program").unwrap();
    fs::write(driver.join("usr/bin/ls"), "not the driver's").unwrap();
}

/// A merged-/usr Debian container and a driver.
fn fixture() -> Fixture {
    let dir = tempfile::tempdir().unwrap();
    let lib = Path::new("usr/lib").join(ldcache::Machine::NATIVE.triplet());
    let (root, driver) = (dir.path().join("root"), dir.path().join("driver"));
    fs::create_dir_all(root.join(&lib)).unwrap();
    fs::create_dir_all(root.join("etc")).unwrap();
    fs::create_dir(dir.path().join("layer")).unwrap();
    symlink("usr/lib", root.join("lib")).unwrap();
    fs::write(root.join(&lib).join("libc.so.6"), library("libc.so.6")).unwrap();
    make_driver(&driver, "550.163.01");
    let lib = root.join(lib);
    let (root, driver) = (RootDir::open(&root).unwrap(), RootDir::open(&driver).unwrap());
    Fixture { dir, root, driver, lib }
}

/// Every path below `dir` with what a second run must not change.
fn snapshot(dir: &Path) -> Vec<(PathBuf, u64, i64, i64)> {
    let entries = walkdir::WalkDir::new(dir).sort_by_file_name().into_iter().map(Result::unwrap);
    entries
        .map(|e| {
            let m = fs::symlink_metadata(e.path()).unwrap();
            (e.path().to_owned(), m.ino(), m.mtime(), m.mtime_nsec())
        })
        .collect()
}

/// Every path below `dir` with what it holds: for comparing two roots.
fn content(dir: &Path) -> Vec<(PathBuf, String)> {
    let entries = walkdir::WalkDir::new(dir).sort_by_file_name().into_iter().map(Result::unwrap);
    let entries = entries.filter(|e| !e.path().ends_with("record.json"));
    entries
        .map(|e| {
            let kind = e.file_type();
            let what = if kind.is_symlink() {
                format!("-> {}", fs::read_link(e.path()).unwrap().display())
            } else if kind.is_file() {
                String::from_utf8_lossy(&fs::read(e.path()).unwrap()).into_owned()
            } else {
                String::new()
            };
            (e.path().strip_prefix(dir).unwrap().to_owned(), what)
        })
        .collect()
}

/// What an image may bring along.
fn bundle(f: &Fixture) -> Vec<String> {
    let local = f.at("root/opt/driver");
    fs::create_dir_all(&local).unwrap();
    fs::write(f.at("root/etc/ld.so.conf"), "/opt/driver\n").unwrap();
    for (dir, name, content) in [
        (&f.lib, "libcuda.so.535.54.03", library("libcuda.so.1")),
        (&f.lib, "libnvidia-encode.so.535.54.03", library("libnvidia-encode.so.1")),
        (&local, "libcuda-renamed.so", library("libcuda.so.1")),
        (&local, "libnvidia-ml.so.1", Vec::new()),
        // Not the driver's.
        (&f.lib, "libcudart.so.12", library("libcudart.so.12")),
        (&f.lib, "libnvidia-container.so.1.17.8", library("libnvidia-container.so.1")),
        (&f.lib, "libnvidia-egl-wayland.so.1.1.18", library("libnvidia-egl-wayland.so.1")),
        (&f.lib, "libcuda.so.535.54.03.bak", library("libcuda.so.1")),
    ] {
        fs::write(dir.join(name), content).unwrap();
    }
    symlink("libcuda.so.535.54.03", f.lib.join("libcuda.so.1")).unwrap();
    let lib = f.lib.strip_prefix(f.at("root")).unwrap().display().to_string();
    let mut expected = vec![
        format!("/{lib}/libcuda.so.535.54.03"),
        format!("/{lib}/libcuda.so.535.54.03.bak"),
        format!("/{lib}/libnvidia-encode.so.535.54.03"),
        "/opt/driver/libcuda-renamed.so".into(),
        "/opt/driver/libnvidia-ml.so.1".into(),
    ];
    expected.sort();
    expected
}
