//! Copies in a root: whole, idempotent, and repaired.

use super::*;
use crate::confined_fs::cut;

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

/// A bind mount of a file that is not there makes a directory of its name, and leaves it behind.
#[test]
fn an_empty_directory_in_a_files_place_is_replaced_and_a_full_one_ends_it_before_anything_is_done() {
    let f = fixture();
    let (library, program) = (f.lib.join("libcuda.so.550.163.01"), f.at("root/usr/bin/nvidia-smi"));
    for place in [&library, &program, &f.lib.join("libcuda.so.1")] {
        fs::create_dir_all(place).unwrap();
    }
    f.copy(&request()).unwrap();
    assert!(library.is_file() && program.is_file() && f.lib.join("libcuda.so.1").is_symlink());
    assert_eq!(f.copy(&request()).unwrap().changed, 0);

    let f = fixture();
    fs::create_dir_all(f.at("root/usr/bin/nvidia-smi/x")).unwrap();
    let before = snapshot(&f.at("root"));
    let error = f.copy(&request()).unwrap_err();
    assert!(
        matches!(&error, InjectError::DirectoryInTheWay { path } if path.ends_with("usr/bin/nvidia-smi")),
        "{error}"
    );
    assert_eq!(snapshot(&f.at("root")), before);
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

/// The image has the very driver: it is used, and it stays the image's.
#[test]
fn a_file_that_the_image_brought_is_not_removed_by_an_upgrade() {
    let f = fixture();
    fs::write(f.lib.join("libcuda.so.550.163.01"), library("libcuda.so.1")).unwrap();
    f.copy(&request()).unwrap();
    fs::remove_dir_all(f.at("driver")).unwrap();
    make_driver(&f.at("driver"), "570.86.16");
    let f = Fixture { driver: RootDir::open(&f.at("driver")).unwrap(), ..f };
    let report = f.copy(&request()).unwrap();
    assert!(
        !report.removed.iter().any(|path| path.ends_with("libcuda.so.550.163.01")),
        "{:?}",
        report.removed
    );
    assert!(f.lib.join(".gpu-initrd-masked.libcuda.so.550.163.01").exists());
}

#[test]
fn a_record_can_only_name_driver_files() {
    let f = fixture();
    f.copy(&request()).unwrap();
    fs::create_dir_all(f.at("root/srv")).unwrap();
    fs::write(f.at("root/srv/data"), "12345").unwrap();
    let path = f.at("root/var/lib/gpu-initrd/record.json");
    let mut record: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let forged = serde_json::json!({ "kind": "file", "size": 5, "inode": 0, "modified_ns": 0 });
    for name in ["/srv/data", "/", "..", "/usr/../srv/data"] {
        record["entries"][name] = forged.clone();
    }
    fs::write(&path, record.to_string()).unwrap();
    f.copy(&request()).unwrap();
    assert_eq!(fs::read_to_string(f.at("root/srv/data")).unwrap(), "12345");
}

#[test]
fn what_a_cut_left_half_written_does_not_count_as_missing_room() {
    let f = fixture();
    cut::after(Some(12));
    assert!(f.copy(&request()).is_err());
    cut::after(None);
    let temporaries = |f: &Fixture| {
        let names = fs::read_dir(&f.lib).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.starts_with(".gpu-initrd-")).count()
    };
    assert!(temporaries(&f) > 0, "the cut came too early to show anything");
    // Another driver: it has none of these names.
    fs::remove_dir_all(f.at("driver")).unwrap();
    make_driver(&f.at("driver"), "570.86.16");
    let f = Fixture { driver: RootDir::open(&f.at("driver")).unwrap(), ..f };
    cut::after(Some(60));
    f.copy(&request()).ok();
    cut::after(None);
    f.copy(&request()).unwrap();
    assert_eq!(temporaries(&f), 0);
}
