use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, symlink};
use std::path::PathBuf;

use super::copy::copy;
use super::layer::layer;
use super::*;

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

/// A merged-/usr Debian container and a driver.
fn fixture() -> Fixture {
    let dir = tempfile::tempdir().unwrap();
    let lib = Path::new("usr/lib").join(ldcache::Machine::NATIVE.triplet());
    let (root, driver) = (dir.path().join("root"), dir.path().join("driver"));
    fs::create_dir_all(root.join(&lib)).unwrap();
    fs::create_dir_all(root.join("etc")).unwrap();
    fs::create_dir_all(driver.join("usr/lib/nvidia")).unwrap();
    fs::create_dir_all(driver.join("usr/bin")).unwrap();
    fs::create_dir(dir.path().join("layer")).unwrap();
    symlink("usr/lib", root.join("lib")).unwrap();
    fs::write(root.join(&lib).join("libc.so.6"), library("libc.so.6")).unwrap();
    for (name, soname) in [
        ("libcuda.so.550.1", "libcuda.so.1"),
        ("libnvidia-ml.so.550.1", "libnvidia-ml.so.1"),
        ("libnvidia-nvvm.so.550.1", "libnvidia-nvvm.so.4"),
        ("libnvidia-nvvm70.so.4", "libnvidia-nvvm70.so.4"),
        ("libnvidia-gpucomp.so.550.1", "libnvidia-gpucomp.so.550.1"),
    ] {
        fs::write(driver.join("usr/lib/nvidia").join(name), library(soname)).unwrap();
    }
    fs::write(driver.join("usr/lib/nvidia/README"), "no library").unwrap();
    fs::write(driver.join("usr/bin/nvidia-smi"), "program").unwrap();
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

#[test]
fn a_layer_is_hard_links_where_the_loader_looks() {
    let f = fixture();
    let at = f.dir.path().join("layer");
    let report = layer(&f.root, &f.driver, &at).unwrap();
    let lib = at.join("usr/lib").join(ldcache::Machine::NATIVE.triplet());
    let inode = |path: PathBuf| fs::metadata(path).unwrap().ino();
    let source = f.dir.path().join("driver/usr/lib/nvidia/libcuda.so.550.1");
    assert_eq!(inode(lib.join("libcuda.so.550.1")), inode(source));
    for (link, target) in [
        ("libcuda.so.1", "libcuda.so.550.1"),
        ("libcuda.so", "libcuda.so.1"),
        ("libnvidia-ml.so", "libnvidia-ml.so.1"),
        ("libnvidia-nvvm.so.4", "libnvidia-nvvm.so.550.1"),
    ] {
        assert_eq!(fs::read_link(lib.join(link)).unwrap(), Path::new(target));
    }
    assert!(at.join("usr/bin/nvidia-smi").exists());
    assert!(!lib.join("README").exists());
    assert!(!at.join("lib").exists(), "only canonical directories");
    assert_eq!(fs::metadata(at.join("usr")).unwrap().mode() & 0o7777, 0o755);
    assert!(report.warnings.is_empty(), "{:?}", report.warnings);
    assert_eq!(layer(&f.root, &f.driver, &at).unwrap().changed, 0, "the second time nothing changes");
}

#[test]
fn other_versions_are_hidden_by_a_layer() {
    let f = fixture();
    for name in ["libcuda.so.999.9", "libcuda.so.1", "libcudart.so.12", "libcuda.so.999.9.bak"] {
        fs::write(f.lib.join(name), library("libcuda.so.1")).unwrap();
    }
    let at = f.dir.path().join("layer");
    let report = layer(&f.root, &f.driver, &at).unwrap();
    let hidden = Path::new(&report.lib_dir).join("libcuda.so.999.9");
    if nix::unistd::geteuid().is_root() {
        assert_eq!(report.masked, [hidden.to_str().unwrap()]);
        let whiteout = fs::symlink_metadata(at.join(hidden.strip_prefix("/").unwrap())).unwrap();
        assert!(whiteout.file_type().is_char_device() && whiteout.rdev() == 0);
    }
}

#[test]
fn a_copy_is_complete_and_idempotent() {
    let f = fixture();
    fs::write(f.lib.join("libcuda.so.999.9"), library("libcuda.so.1")).unwrap();
    // What container tools leave behind: an empty file instead of the link.
    fs::write(f.lib.join("libcuda.so.1"), "").unwrap();
    let mut report = copy(&f.root, &f.driver).unwrap();
    complete(&f.root, None, &mut report).unwrap();
    let in_lib = |name: &str| format!("{}/{name}", report.lib_dir);
    assert_eq!(report.masked, [in_lib("libcuda.so.999.9")]);
    for found in &report.resolved {
        assert!(found.injected, "{found:?}");
    }
    assert_eq!(report.resolved[0].file, Some(in_lib("libcuda.so.550.1")));

    let before = snapshot(&f.dir.path().join("root"));
    let mut report = copy(&f.root, &f.driver).unwrap();
    complete(&f.root, None, &mut report).unwrap();
    assert_eq!(report.changed, 0);
    assert_eq!(snapshot(&f.dir.path().join("root")), before);
}

#[test]
fn a_library_path_that_beats_us_is_reported() {
    let f = fixture();
    fs::create_dir_all(f.dir.path().join("root/opt")).unwrap();
    fs::write(f.dir.path().join("root/opt/libcuda.so.1"), library("libcuda.so.1")).unwrap();
    let mut report = copy(&f.root, &f.driver).unwrap();
    complete(&f.root, Some(OsStr::new("/opt")), &mut report).unwrap();
    let cuda = &report.resolved[0];
    assert_eq!((cuda.injected, cuda.via), (false, Some(Via::LibraryPath)));
}

#[test]
fn a_container_without_glibc_is_refused() {
    let f = fixture();
    fs::remove_file(f.lib.join("libc.so.6")).unwrap();
    assert!(matches!(copy(&f.root, &f.driver), Err(InjectError::NoGlibc { .. })));
}

#[test]
fn a_driver_for_another_machine_is_refused() {
    let f = fixture();
    for entry in fs::read_dir(f.dir.path().join("driver/usr/lib/nvidia")).unwrap() {
        let path = entry.unwrap().path();
        let mut bytes = library("libcuda.so.1");
        bytes[18] = 8;
        fs::write(path, bytes).unwrap();
    }
    assert!(matches!(copy(&f.root, &f.driver), Err(InjectError::NoLibraries { found: 6, .. })));
}

#[test]
fn hostile_links_do_not_lead_out() {
    let f = fixture();
    fs::create_dir(f.dir.path().join("outside")).unwrap();
    fs::remove_dir_all(f.dir.path().join("root/usr/bin")).ok();
    symlink(f.dir.path().join("outside"), f.dir.path().join("root/usr/bin")).unwrap();
    let _ = copy(&f.root, &f.driver);
    assert_eq!(fs::read_dir(f.dir.path().join("outside")).unwrap().count(), 0);
}

/// Mounts the overlay that the guest mounts, in a mount namespace of this thread. `None` where that is not
/// allowed.
fn mount_overlay(f: &Fixture) -> Option<PathBuf> {
    use nix::mount::{MsFlags, mount};
    let at = |name: &str| f.dir.path().join(name);
    for name in ["upper", "work", "merged"] {
        fs::create_dir(at(name)).unwrap();
    }
    let options = format!(
        "lowerdir={}:{},upperdir={},workdir={}",
        at("layer").display(),
        at("root").display(),
        at("upper").display(),
        at("work").display()
    );
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).ok()?;
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).ok()?;
    mount(Some("overlay"), &at("merged"), Some("overlay"), MsFlags::empty(), Some(options.as_str())).ok()?;
    Some(at("merged"))
}

#[test]
fn an_overlay_shows_this_driver_and_no_other() {
    let f = fixture();
    for name in ["libcuda.so.999.9", "libcuda.so.1"] {
        fs::write(f.lib.join(name), library("libcuda.so.1")).unwrap();
    }
    let mut report = layer(&f.root, &f.driver, &f.dir.path().join("layer")).unwrap();
    let Some(merged) = mount_overlay(&f) else {
        eprintln!("skipped: needs the right to mount an overlay");
        return;
    };
    let merged = RootDir::open(&merged).unwrap();
    complete(&merged, None, &mut report).unwrap();
    assert!(!merged.exists(&Path::new(&report.lib_dir).join("libcuda.so.999.9")));
    assert!(report.resolved.iter().all(|r| r.injected), "{:?}", report.resolved);
    assert!(f.lib.join("libcuda.so.999.9").exists(), "the image itself is not touched");
}
