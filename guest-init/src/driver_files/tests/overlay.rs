//! The driver as a layer of an overlay.

use std::ffi::OsStr;

use nix::mount::{MsFlags, mount};

use super::*;
use crate::own_process::as_root_of_a_namespace;

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

/// Mounts the overlay that the guest mounts.
fn mount_overlay(f: &Fixture) -> RootDir {
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
    // What the guest's overlay gets is kept in attributes that only root of the machine may set; here in those of a user.
    let options = format!("{options},userxattr");
    mount(Some("overlay"), &f.at("merged"), Some("overlay"), MsFlags::empty(), Some(options.as_str()))
        .unwrap();
    RootDir::open(&f.at("merged")).unwrap()
}

#[test]
fn an_overlay_shows_this_driver_and_no_other() {
    as_root_of_a_namespace(module_path!(), "an_overlay_shows_this_driver_and_no_other", overlay_shows_driver);
}

fn overlay_shows_driver() {
    let f = fixture();
    bundle(&f);
    let mut report = f.layer(&request()).unwrap();
    let merged = mount_overlay(&f);
    complete(&merged, &request(), &mut report).unwrap();
    assert!(!merged.exists(&Path::new(&report.lib_dir).join("libcuda.so.535.54.03")));
    assert!(report.resolved.iter().all(|r| r.expected), "{:?}", report.resolved);
    assert!(f.lib.join("libcuda.so.535.54.03").exists(), "the image itself is not touched");
}

/// What a container of an earlier boot left in a persistent upper layer must not win.
#[test]
fn an_old_upper_layer_does_not_hide_the_driver() {
    as_root_of_a_namespace(module_path!(), "an_old_upper_layer_does_not_hide_the_driver", old_upper_layer);
}

fn old_upper_layer() {
    let f = fixture();
    let upper = f.at("upper").join(f.lib.strip_prefix(f.at("root")).unwrap());
    fs::create_dir_all(&upper).unwrap();
    fs::write(upper.join("libcuda.so.550.163.01"), "stale").unwrap();
    fs::write(upper.join("libcuda.so.535.54.03"), library("libcuda.so.1")).unwrap();
    symlink("libcuda.so.535.54.03", upper.join("libcuda.so.1")).unwrap();
    let inventory = Inventory::of_directory(&f.driver).unwrap();
    let old = RootDir::open(&f.at("upper")).unwrap();
    let mut report =
        layer_of(&f.root, &f.driver, &inventory, &request(), LayerPlace::Links(&f.at("layer")), Some(&old))
            .unwrap();
    let merged = mount_overlay(&f);
    complete(&merged, &request(), &mut report).unwrap();
    assert!(report.resolved.iter().all(|r| r.expected), "{:?}", report.resolved);
    let names = merged.list(Path::new(&report.lib_dir)).unwrap();
    assert!(names.iter().any(|e| e.name == OsStr::new(".gpu-initrd-masked.libcuda.so.535.54.03")));
}
