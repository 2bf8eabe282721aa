//! Copies in a root: whole, idempotent, and repaired.

use super::*;
use crate::rootfs::cut;

#[test]
fn a_copy_is_complete_and_idempotent() {
    let f = fixture();
    let mut expected = bundle(&f);
    let report = f.copy(&request()).unwrap();
    let mut masked = report.masked.clone();
    masked.sort();
    expected.sort();
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
