use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, symlink};
use std::path::{Path, PathBuf};

use image::capability::Capability;
use image::config::DriverFiles;
use image::status::Code;

use super::*;
use crate::ldcache;
use crate::rootfs::{RootDir, cut};

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

    fn copy(&self, request: &Request) -> Result<InjectReport, InjectError> {
        let mut report =
            copy::copy(&self.root, &self.driver, &Inventory::of_directory(&self.driver)?, request)?;
        complete(&self.root, request, &mut report)?;
        Ok(report)
    }

    fn layer(&self, request: &Request) -> Result<InjectReport, InjectError> {
        let inventory = Inventory::of_directory(&self.driver)?;
        layer::layer(&self.root, &self.driver, &inventory, request, &self.at("layer"), None)
    }
}

/// What a container gets that asks for nothing.
fn request() -> Request {
    Request { capabilities: BTreeSet::from(Capability::DEFAULT), ..Request::default() }
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

#[test]
fn a_layer_is_hard_links_where_the_loader_looks() {
    let f = fixture();
    let report = f.layer(&request()).unwrap();
    let at = f.at("layer");
    let lib = at.join("usr/lib").join(ldcache::Machine::NATIVE.triplet());
    let inode = |path: PathBuf| fs::metadata(path).unwrap().ino();
    let source = f.at("driver/usr/lib/nvidia/libcuda.so.550.163.01");
    assert_eq!(inode(lib.join("libcuda.so.550.163.01")), inode(source));
    for (link, target) in [
        ("libcuda.so.1", "libcuda.so.550.163.01"),
        ("libcuda.so", "libcuda.so.1"),
        ("libnvidia-nvvm.so.4", "libnvidia-nvvm.so.550.163.01"),
        ("libnvidia-ml.so", "libnvidia-ml.so.1"),
    ] {
        assert_eq!(fs::read_link(lib.join(link)).unwrap(), Path::new(target));
    }
    assert!(at.join("usr/bin/nvidia-smi").exists());
    for absent in ["README", "libnvidia-encode.so.1", "libnvidia-encode.so.550.163.01"] {
        assert!(!lib.join(absent).exists(), "{absent}");
    }
    assert!(!at.join("usr/bin/ls").exists());
    assert!(!at.join("lib").exists(), "only canonical directories");
    assert_eq!(fs::metadata(at.join("usr")).unwrap().mode() & 0o7777, 0o755);
    assert!(report.warnings.is_empty(), "{:?}", report.warnings);
    assert_eq!(f.layer(&request()).unwrap().changed, 0, "the second time nothing changes");
}

#[test]
fn capabilities_choose_and_what_is_not_carried_is_named() {
    let f = fixture();
    let mut asked = request();
    asked.capabilities = BTreeSet::from([Capability::Utility]);
    let report = f.layer(&asked).unwrap();
    let has = |report: &InjectReport, name: &str| report.items.iter().any(|i| i.path.ends_with(name));
    assert!(has(&report, "libnvidia-ml.so.1") && !has(&report, "libcuda.so.1"));
    asked.capabilities = BTreeSet::from([Capability::Video, Capability::Graphics]);
    asked.named = asked.capabilities.clone();
    let report = f.layer(&asked).unwrap();
    assert!(has(&report, "libnvidia-encode.so.1"));
    let finding = report.findings.iter().find(|finding| finding.code == Code::CapabilityMissing);
    assert!(finding.is_none(), "the table gives graphics libcuda, so something of it is carried");
    asked.named = BTreeSet::from([Capability::Ngx]);
    let report = f.layer(&asked).unwrap();
    let finding = &report.findings[0];
    assert!(finding.code == Code::CapabilityMissing && finding.message.contains("ngx"), "{finding:?}");
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

#[test]
fn driver_files_of_the_image_are_hidden_by_a_layer_wherever_the_loader_looks() {
    let f = fixture();
    let expected = bundle(&f);
    let report = f.layer(&request()).unwrap();
    let finding = report.findings.iter().find(|finding| finding.code == Code::ImageBundlesDriver).unwrap();
    assert!(finding.message.contains("535.54.03") && finding.message.contains("550.163.01"), "{finding:?}");
    assert_eq!(finding.evidence, expected);
    if nix::unistd::geteuid().is_root() {
        assert_eq!(report.masked, expected);
        let whiteout = f.at("layer").join(expected[0].trim_start_matches('/'));
        let whiteout = fs::symlink_metadata(whiteout).unwrap();
        assert!(whiteout.file_type().is_char_device() && whiteout.rdev() == 0);
    }
}

#[test]
fn the_policy_can_keep_or_refuse_them() {
    let f = fixture();
    bundle(&f);
    let keep = Request { driver_files: DriverFiles::Keep, ..request() };
    let report = f.copy(&keep).unwrap();
    assert!(report.masked.is_empty() && f.at("root/opt/driver/libcuda-renamed.so").exists());
    let codes: Vec<_> = report.findings.iter().map(|finding| finding.code).collect();
    assert_eq!(codes, [Code::ImageBundlesDriver, Code::LibraryShadowed], "{:?}", report.findings);
    let f = fixture();
    bundle(&f);
    let before = snapshot(&f.at("root"));
    let refuse = Request { driver_files: DriverFiles::Refuse, ..request() };
    assert!(matches!(f.copy(&refuse), Err(InjectError::Refused(_))));
    assert_eq!(snapshot(&f.at("root")), before);
}

#[test]
fn a_copy_is_complete_and_idempotent() {
    let f = fixture();
    let mut expected = bundle(&f);
    let report = f.copy(&request()).unwrap();
    let mut masked = report.masked.clone();
    (masked.sort(), expected.sort());
    assert_eq!(masked, expected);
    for found in &report.resolved {
        assert!(found.expected, "{found:?}");
        assert_eq!(found.version.as_deref(), Some("550.163.01"));
    }
    let before = snapshot(&f.at("root"));
    assert_eq!(f.copy(&request()).unwrap().changed, 0);
    assert_eq!(snapshot(&f.at("root")), before);
}

#[test]
fn an_upgrade_replaces_the_earlier_driver_and_nothing_else() {
    let f = fixture();
    f.copy(&request()).unwrap();
    fs::write(f.lib.join("libmine.so.550.163.01"), "mine").unwrap();
    // A file of ours that somebody changed is theirs now.
    fs::write(f.lib.join("libnvidia-gpucomp.so.550.163.01"), "changed").unwrap();
    fs::remove_dir_all(f.at("driver")).unwrap();
    make_driver(&f.at("driver"), "570.86.16");
    let f = Fixture { driver: RootDir::open(&f.at("driver")).unwrap(), ..f };
    let report = f.copy(&request()).unwrap();
    let lib = report.lib_dir.clone();
    let removed = ["libcuda", "libnvidia-ml", "libnvidia-nvvm"];
    assert_eq!(report.removed, removed.map(|stem| format!("{lib}/{stem}.so.550.163.01")));
    assert!(f.lib.join("libmine.so.550.163.01").exists());
    // It has a driver's name, and so it is out of the loader's sight all the same.
    assert!(f.lib.join(".gpu-initrd-masked.libnvidia-gpucomp.so.550.163.01").exists());
    assert!(report.resolved.iter().all(|r| r.expected && r.version.as_deref() == Some("570.86.16")));
    assert_eq!(fs::read_to_string(f.at("root/usr/bin/nvidia-smi")).unwrap(), "program of 570.86.16");
    assert_eq!(f.copy(&request()).unwrap().changed, 0);
}

/// Cuts the power after each change in turn, and boots again.
#[test]
fn a_cut_at_any_point_is_repaired_by_the_next_boot() {
    let whole = || {
        let f = fixture();
        bundle(&f);
        f.copy(&request()).unwrap();
        fs::remove_dir_all(f.at("driver")).unwrap();
        make_driver(&f.at("driver"), "570.86.16");
        Fixture { driver: RootDir::open(&f.at("driver")).unwrap(), ..f }
    };
    let reference = whole();
    reference.copy(&request()).unwrap();
    let expected = content(&reference.at("root"));
    let mut cuts = 0;
    for changes in 0.. {
        let f = whole();
        cut::after(Some(changes));
        let interrupted = f.copy(&request());
        cut::after(None);
        let versions: Vec<_> = ["550.163.01", "570.86.16"]
            .into_iter()
            .filter(|version| {
                let names = ["libcuda", "libnvidia-ml", "libnvidia-nvvm", "libnvidia-gpucomp"];
                names.iter().all(|stem| f.lib.join(format!("{stem}.so.{version}")).exists())
            })
            .collect();
        assert!(!versions.is_empty(), "after {changes} changes neither set is whole");
        if interrupted.is_ok() {
            break;
        }
        cuts += 1;
        f.copy(&request()).unwrap_or_else(|error| panic!("after {changes} changes: {error}"));
        assert_eq!(content(&f.at("root")), expected, "after {changes} changes");
        assert_eq!(f.copy(&request()).unwrap().changed, 0);
    }
    assert!(cuts > 20, "{cuts}");
}

#[test]
fn a_library_path_that_beats_us_is_reported() {
    let f = fixture();
    fs::create_dir_all(f.at("root/opt")).unwrap();
    fs::write(f.at("root/opt/libcuda.so.1"), library("libcuda.so.1")).unwrap();
    let asked = Request { library_path: Some("/opt".into()), driver_files: DriverFiles::Keep, ..request() };
    let report = f.copy(&asked).unwrap();
    let cuda = &report.resolved[0];
    assert_eq!((cuda.expected, cuda.via), (false, Some(ldcache::Via::LibraryPath)));
    let masking = Request { driver_files: DriverFiles::Mask, ..asked };
    assert!(f.copy(&masking).unwrap().resolved.iter().all(|found| found.expected));
}

#[test]
fn compatibility_libraries_are_used_when_they_are_newer_and_allow_the_driver() {
    let f = fixture();
    let compat = f.at("root/usr/local/cuda-13.1/compat");
    fs::create_dir_all(&compat).unwrap();
    symlink("cuda-13.1", f.at("root/usr/local/cuda")).unwrap();
    fs::write(compat.join("libcuda.so.590.44.01"), library("libcuda.so.1")).unwrap();
    symlink("libcuda.so.590.44.01", compat.join("libcuda.so.1")).unwrap();
    let report = f.copy(&request()).unwrap();
    assert_eq!(report.compat_dir.as_deref(), Some("/usr/local/cuda-13.1/compat"));
    let cuda = &report.resolved[0];
    assert_eq!((cuda.expected, cuda.version.as_deref()), (true, Some("590.44.01")), "{cuda:?}");
    assert_eq!(report.resolved[2].version.as_deref(), Some("550.163.01"));
    assert_eq!(f.copy(&request()).unwrap().changed, 0);

    // An older one that the image's configuration prefers is hidden.
    fs::rename(compat.join("libcuda.so.590.44.01"), compat.join("libcuda.so.535.54.03")).unwrap();
    fs::remove_file(compat.join("libcuda.so.1")).unwrap();
    symlink("libcuda.so.535.54.03", compat.join("libcuda.so.1")).unwrap();
    let asked = Request { library_path: Some("/usr/local/cuda/compat".into()), ..request() };
    let report = f.copy(&asked).unwrap();
    assert_eq!(report.compat_dir, None);
    assert_eq!(report.masked.len(), 2, "{:?}", report.masked);
    assert!(report.resolved.iter().all(|r| r.expected && r.version.as_deref() == Some("550.163.01")));
}

#[test]
fn a_container_without_glibc_is_left_untouched() {
    let f = fixture();
    fs::remove_file(f.lib.join("libc.so.6")).unwrap();
    fs::write(f.at("root/usr/lib/libc.musl-x86_64.so.1"), library("libc.musl-x86_64.so.1")).unwrap();
    let before = snapshot(&f.at("root"));
    assert!(matches!(f.copy(&request()), Err(InjectError::NoGlibc { .. })));
    assert_eq!(snapshot(&f.at("root")), before);
}

#[test]
fn gcompat_gets_the_driver_where_musl_looks() {
    let f = fixture();
    fs::remove_file(f.lib.join("libc.so.6")).unwrap();
    fs::write(f.at("root/usr/lib/libgcompat.so.0"), library("libgcompat.so.0")).unwrap();
    let report = f.copy(&request()).unwrap();
    assert_eq!(report.lib_dir, "/usr/lib");
    assert!(report.resolved.iter().all(|found| found.expected), "{:?}", report.resolved);
    assert!(!f.at("root/etc/ld.so.cache").exists());
    assert_eq!(f.copy(&request()).unwrap().changed, 0);
}

#[test]
fn a_store_gets_a_directory_of_its_own_and_is_told_who_sees_it() {
    let f = fixture();
    fs::create_dir_all(f.at("root/nix/store")).unwrap();
    let report = f.copy(&request()).unwrap();
    let store = f.at("root/usr/lib/gpu-initrd/opengl-driver/lib");
    assert!(report.store && store.join("libcuda.so.1").exists() && f.lib.join("libcuda.so.1").exists());
    assert!(!store.join("libc.so.6").exists());
    assert!(report.findings.iter().any(|finding| finding.code == Code::ImageIsNix));
    fs::remove_file(f.lib.join("libc.so.6")).unwrap();
    let report = f.copy(&request()).unwrap();
    assert_eq!(report.lib_dir, "/usr/lib/gpu-initrd/opengl-driver/lib");
}

#[test]
fn a_driver_directory_must_hold_one_driver() {
    let f = fixture();
    make_driver(&f.at("driver"), "570.86.16");
    assert!(matches!(f.copy(&request()), Err(InjectError::DriverVersions { .. })));
    fs::remove_dir_all(f.at("driver/usr/lib")).unwrap();
    assert!(matches!(f.copy(&request()), Err(InjectError::NoDriver { .. })));
}

#[test]
fn a_directory_of_a_cluster_node_is_understood() {
    let f = fixture();
    fs::rename(f.at("driver/usr/lib/nvidia"), f.at("driver/lib64")).unwrap();
    fs::rename(f.at("driver/usr/bin"), f.at("driver/bin")).unwrap();
    let report = f.copy(&request()).unwrap();
    assert!(report.resolved.iter().all(|found| found.expected), "{:?}", report.resolved);
    assert!(f.at("root/usr/bin/nvidia-smi").exists());
}

#[test]
fn a_driver_for_another_machine_is_refused() {
    let f = fixture();
    for entry in fs::read_dir(f.at("driver/usr/lib/nvidia")).unwrap() {
        let path = entry.unwrap().path();
        let mut bytes = library("libcuda.so.1");
        bytes[18] = 8;
        fs::write(path, bytes).unwrap();
    }
    assert!(matches!(f.copy(&request()), Err(InjectError::NoLibraries { found: 5, .. })));
}

#[test]
fn hostile_links_do_not_lead_out() {
    let f = fixture();
    fs::create_dir(f.at("outside")).unwrap();
    fs::remove_dir_all(f.at("root/usr/bin")).ok();
    symlink(f.at("outside"), f.at("root/usr/bin")).unwrap();
    let _ = f.copy(&request());
    assert_eq!(fs::read_dir(f.at("outside")).unwrap().count(), 0);
}

/// Mounts the overlay that the guest mounts, in a mount namespace of this thread. `None` where that is not
/// allowed.
fn mount_overlay(f: &Fixture) -> Option<PathBuf> {
    use nix::mount::{MsFlags, mount};
    for name in ["upper", "work", "merged"] {
        fs::create_dir_all(f.at(name)).unwrap();
    }
    let options = format!(
        "lowerdir={}:{},upperdir={},workdir={}",
        f.at("layer").display(),
        f.at("root").display(),
        f.at("upper").display(),
        f.at("work").display()
    );
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).ok()?;
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).ok()?;
    mount(Some("overlay"), &f.at("merged"), Some("overlay"), MsFlags::empty(), Some(options.as_str()))
        .ok()?;
    Some(f.at("merged"))
}

#[test]
fn an_overlay_shows_this_driver_and_no_other() {
    let f = fixture();
    bundle(&f);
    let mut report = f.layer(&request()).unwrap();
    let Some(merged) = mount_overlay(&f) else {
        eprintln!("skipped: needs the right to mount an overlay");
        return;
    };
    let merged = RootDir::open(&merged).unwrap();
    complete(&merged, &request(), &mut report).unwrap();
    assert!(!merged.exists(&Path::new(&report.lib_dir).join("libcuda.so.535.54.03")));
    assert!(report.resolved.iter().all(|r| r.expected), "{:?}", report.resolved);
    assert!(f.lib.join("libcuda.so.535.54.03").exists(), "the image itself is not touched");
}

/// What a container of an earlier boot left in a persistent upper layer must not win.
#[test]
fn an_old_upper_layer_does_not_hide_the_driver() {
    let f = fixture();
    let upper = f.at("upper").join(f.lib.strip_prefix(f.at("root")).unwrap());
    fs::create_dir_all(&upper).unwrap();
    fs::write(upper.join("libcuda.so.550.163.01"), "stale").unwrap();
    fs::write(upper.join("libcuda.so.535.54.03"), library("libcuda.so.1")).unwrap();
    symlink("libcuda.so.535.54.03", upper.join("libcuda.so.1")).unwrap();
    let inventory = Inventory::of_directory(&f.driver).unwrap();
    let old = RootDir::open(&f.at("upper")).unwrap();
    let mut report =
        layer::layer(&f.root, &f.driver, &inventory, &request(), &f.at("layer"), Some(&old)).unwrap();
    let Some(merged) = mount_overlay(&f) else {
        eprintln!("skipped: needs the right to mount an overlay");
        return;
    };
    let merged = RootDir::open(&merged).unwrap();
    complete(&merged, &request(), &mut report).unwrap();
    assert!(report.resolved.iter().all(|r| r.expected), "{:?}", report.resolved);
    let names = merged.list(Path::new(&report.lib_dir)).unwrap();
    assert!(names.iter().any(|e| e.name == OsStr::new(".gpu-initrd-masked.libcuda.so.535.54.03")));
}
