//! What images hold, and what they are given.

use std::os::unix::fs::FileTypeExt;

use super::*;

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
    let finding = report.findings().into_iter().find(|found| found.code == Code::CapabilityMissing);
    assert!(finding.is_none(), "the table gives graphics libcuda, so something of it is carried");
    asked.named = BTreeSet::from([Capability::Ngx]);
    let report = f.layer(&asked).unwrap();
    let finding = report.findings().remove(0);
    assert!(finding.code == Code::CapabilityMissing && finding.message.contains("ngx"), "{finding:?}");
}

#[test]
fn driver_files_of_the_image_are_hidden_by_a_layer_wherever_the_loader_looks() {
    let f = fixture();
    let expected = bundle(&f);
    let report = f.layer(&request()).unwrap();
    let finding = report.findings().into_iter().find(|found| found.code == Code::ImageBundlesDriver).unwrap();
    assert!(finding.message.contains("535.54.03") && finding.message.contains("550.163.01"), "{finding:?}");
    // What stands where the driver's own link goes is named too; nothing has to be hidden there.
    let mut named = expected.clone();
    named.push(format!("{}/libcuda.so.1", report.lib_dir));
    named.sort();
    assert_eq!(finding.evidence, named);
    assert_eq!(report.masked, expected);
    let whiteout = f.at("layer").join(expected[0].trim_start_matches('/'));
    let whiteout = fs::symlink_metadata(whiteout).unwrap();
    assert!(whiteout.file_type().is_char_device() && whiteout.rdev() == 0);
}

#[test]
fn the_policy_can_keep_or_refuse_them() {
    let f = fixture();
    bundle(&f);
    let keep = ContainerRequest { driver_files: DriverFiles::Keep, ..request() };
    let report = f.copy(&keep).unwrap();
    assert!(report.masked.is_empty() && f.at("root/opt/driver/libcuda-renamed.so").exists());
    let codes: Vec<_> = report.findings().iter().map(|finding| finding.code).collect();
    assert_eq!(codes, [Code::ImageBundlesDriver, Code::LibraryShadowed], "{:?}", report.findings());
    let f = fixture();
    bundle(&f);
    let before = snapshot(&f.at("root"));
    let refuse = ContainerRequest { driver_files: DriverFiles::Refuse, ..request() };
    assert!(matches!(f.copy(&refuse), Err(InjectError::Refused(_))));
    assert_eq!(snapshot(&f.at("root")), before);
}

#[test]
fn a_library_path_that_beats_us_is_reported() {
    let f = fixture();
    fs::create_dir_all(f.at("root/opt")).unwrap();
    fs::write(f.at("root/opt/libcuda.so.1"), library("libcuda.so.1")).unwrap();
    let asked =
        ContainerRequest { library_path: Some("/opt".into()), driver_files: DriverFiles::Keep, ..request() };
    let report = f.copy(&asked).unwrap();
    let cuda = &report.resolved[0];
    assert_eq!((cuda.expected, cuda.via), (false, Some(ldcache::Via::LibraryPath)));
    let masking = ContainerRequest { driver_files: DriverFiles::Mask, ..asked };
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
    let asked = ContainerRequest { library_path: Some("/usr/local/cuda/compat".into()), ..request() };
    let report = f.copy(&asked).unwrap();
    assert_eq!(report.compat_dir, None);
    assert_eq!(report.masked.len(), 2, "{:?}", report.masked);
    assert!(report.resolved.iter().all(|r| r.expected && r.version.as_deref() == Some("550.163.01")));
}

/// Images of NGC keep them one deeper and make the link to them when they start; conda's package has a directory of its own; some
/// only name them to the loader.
#[test]
fn compatibility_libraries_are_found_however_an_image_lays_them_out() {
    for (dir, library_path) in [
        ("usr/local/cuda-13.1/compat/lib.real", None),
        ("usr/local/cuda/compat_orin", None),
        ("opt/cuda/compat", None),
        ("opt/conda/cuda-compat", None),
        ("opt/conda/envs/train/cuda-compat", None),
        ("srv/cuda-compat", Some("/srv/cuda-compat")),
        ("srv/compat/lib", Some("/srv/compat/lib")),
    ] {
        let f = fixture();
        let compat = f.at("root").join(dir);
        fs::create_dir_all(&compat).unwrap();
        fs::write(compat.join("libcuda.so.590.44.01"), library("libcuda.so.1")).unwrap();
        symlink("libcuda.so.590.44.01", compat.join("libcuda.so.1")).unwrap();
        let asked = ContainerRequest { library_path: library_path.map(Into::into), ..request() };
        let report = f.copy(&asked).unwrap();
        assert_eq!(report.compat_dir, Some(format!("/{dir}")));
        assert_eq!(report.resolved[0].version.as_deref(), Some("590.44.01"), "{dir}");
        assert!(report.masked.is_empty() && report.resolved[0].expected, "{dir}: {report:?}");
    }
}

#[test]
fn a_container_without_glibc_is_left_untouched() {
    let f = fixture();
    fs::remove_file(f.lib.join("libc.so.6")).unwrap();
    fs::write(f.at("root/usr/lib/libc.musl-x86_64.so.1"), library("libc.musl-x86_64.so.1")).unwrap();
    let before = snapshot(&f.at("root"));
    assert!(matches!(f.copy(&request()), Err(InjectError::NoGlibc { .. })));
    let root = RootDir::open(&f.at("root")).unwrap();
    assert_eq!(super::super::libc(&root), "none");
    assert_eq!(snapshot(&f.at("root")), before);
}

#[test]
fn gcompat_gets_the_driver_where_musl_looks() {
    let f = fixture();
    fs::remove_file(f.lib.join("libc.so.6")).unwrap();
    fs::write(f.at("root/usr/lib/libgcompat.so.0"), library("libgcompat.so.0")).unwrap();
    let report = f.copy(&request()).unwrap();
    assert_eq!((report.lib_dir.as_str(), report.libc.as_str()), ("/usr/lib", "musl with gcompat"));
    assert!(report.resolved.iter().all(|found| found.expected), "{:?}", report.resolved);
    assert!(!f.at("root/etc/ld.so.cache").exists());
    assert_eq!(f.copy(&request()).unwrap().changed, 0);
}

#[test]
fn a_store_gets_a_directory_of_its_own_and_is_told_who_sees_it() {
    let f = fixture();
    fs::create_dir_all(f.at("root/nix/store")).unwrap();
    let report = f.copy(&request()).unwrap();
    let store = f.at("root/var/lib/gpu-initrd/opengl-driver/lib");
    assert!(report.store && store.join("libcuda.so.1").exists() && f.lib.join("libcuda.so.1").exists());
    assert!(!store.join("libc.so.6").exists());
    assert!(report.findings().iter().any(|finding| finding.code == Code::ImageIsNix));
    fs::remove_file(f.lib.join("libc.so.6")).unwrap();
    let report = f.copy(&request()).unwrap();
    assert_eq!(report.lib_dir, "/var/lib/gpu-initrd/opengl-driver/lib");
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
fn programs_of_another_driver_are_hidden_where_programs_are_looked_for() {
    let f = fixture();
    for dir in ["root/usr/local/bin", "root/opt/bin", "root/srv"] {
        fs::create_dir_all(f.at(dir)).unwrap();
        fs::write(f.at(dir).join("nvidia-smi"), library("x")).unwrap();
    }
    // Somebody's own; no program of the driver; one that the container is not given.
    fs::write(f.at("root/opt/bin/nvidia-modprobe"), "#!/bin/sh\n").unwrap();
    fs::write(f.at("root/opt/bin/other"), library("x")).unwrap();
    fs::write(f.at("root/opt/bin/nv-fabricmanager"), library("x")).unwrap();
    let asked = ContainerRequest { path: Some("/usr/local/bin:/opt/bin:/usr/bin".into()), ..request() };
    let report = f.layer(&asked).unwrap();
    assert_eq!(report.masked, ["/opt/bin/nvidia-smi", "/usr/local/bin/nvidia-smi"]);
    let report = f.copy(&asked).unwrap();
    assert_eq!(report.masked, ["/opt/bin/nvidia-smi", "/usr/local/bin/nvidia-smi"]);
    assert!(f.at("root/srv/nvidia-smi").exists() && f.at("root/usr/bin/nvidia-smi").exists());
    assert_eq!(f.copy(&asked).unwrap().changed, 0);
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

#[test]
fn an_image_whose_usr_is_a_link_into_a_store_keeps_its_driver() {
    let f = fixture();
    fs::create_dir_all(f.at("root/nix/store/env")).unwrap();
    fs::rename(f.at("root/usr"), f.at("root/nix/store/env/usr")).unwrap();
    symlink("/nix/store/env/usr", f.at("root/usr")).unwrap();
    symlink("/nix/store/env", f.at("root/var")).unwrap();
    let report = f.copy(&request()).unwrap();
    assert_eq!(report.masked, Vec::<String>::new());
    assert!(f.at("root/nix/store/env/lib/gpu-initrd/opengl-driver/lib/libcuda.so.550.163.01").exists());
    assert_eq!(f.copy(&request()).unwrap().changed, 0);
    let report = f.layer(&request()).unwrap();
    assert!(!f.at("layer/usr").exists() && !f.at("layer/var").exists(), "{:?}", report.items);
}

#[test]
fn musl_under_glibcs_name_is_no_glibc() {
    let f = fixture();
    fs::write(f.lib.join("libc.so.6"), library("libc.musl-x86_64.so.1")).unwrap();
    assert!(matches!(f.copy(&request()), Err(InjectError::NoGlibc { .. })));
}

#[test]
fn a_capability_that_is_not_carried_is_a_finding_and_no_failure() {
    let f = fixture();
    let mut inventory = Inventory::of_directory(&f.driver).unwrap();
    inventory.files.retain(|file| file.capabilities.contains(&Capability::Utility));
    let named = BTreeSet::from([Capability::Ngx]);
    let asked = ContainerRequest { capabilities: named.clone(), named, ..request() };
    let report = copy_in(&f.root, &f.driver, &inventory, &asked).unwrap();
    assert_eq!(report.items, []);
    assert!(report.findings()[0].message.contains("ngx"), "{:?}", report.findings());
}

#[test]
fn keeping_leaves_what_the_image_has_and_stays_so() {
    let f = fixture();
    bundle(&f);
    fs::create_dir_all(f.at("root/usr/bin")).unwrap();
    fs::write(f.at("root/usr/bin/nvidia-smi"), "the image's").unwrap();
    let keep = ContainerRequest { driver_files: DriverFiles::Keep, ..request() };
    f.copy(&keep).unwrap();
    assert_eq!(fs::read_to_string(f.at("root/usr/bin/nvidia-smi")).unwrap(), "the image's");
    let before = snapshot(&f.at("root"));
    assert_eq!(f.copy(&keep).unwrap().changed, 0);
    assert_eq!(snapshot(&f.at("root")), before);
}

/// What a committed container of NVIDIA's runtime has in place of the links.
#[test]
fn empty_leftovers_at_our_own_places_are_named_and_refused() {
    let f = fixture();
    fs::write(f.lib.join("libcuda.so.1"), "").unwrap();
    let refuse = ContainerRequest { driver_files: DriverFiles::Refuse, ..request() };
    assert!(matches!(f.copy(&refuse), Err(InjectError::Refused(_))));
    let report = f.copy(&request()).unwrap();
    assert!(report.findings().iter().any(|finding| finding.code == Code::ImageBundlesDriver));
    assert!(report.resolved.iter().all(|found| found.expected));
}

/// The loader stops at a file that is no library.
#[test]
fn an_empty_file_on_the_library_path_is_what_the_loader_meets() {
    let f = fixture();
    fs::create_dir_all(f.at("root/opt")).unwrap();
    fs::write(f.at("root/opt/libcuda.so.1"), "").unwrap();
    let asked =
        ContainerRequest { library_path: Some("/opt".into()), driver_files: DriverFiles::Keep, ..request() };
    let report = f.copy(&asked).unwrap();
    assert!(!report.resolved[0].expected, "{:?}", report.resolved[0]);
    assert!(report.findings().iter().any(|finding| finding.code == Code::LibraryShadowed));
}

#[test]
fn a_directory_under_a_librarys_name_does_not_end_the_boot() {
    let f = fixture();
    fs::create_dir_all(f.lib.join("libcuda.so.1/x")).unwrap();
    let report = f.copy(&request()).unwrap();
    assert!(report.warnings.iter().any(|warning| warning.contains("libcuda.so.1")), "{:?}", report.warnings);
    assert!(report.findings().iter().any(|finding| finding.code == Code::LibraryShadowed));
}

/// Programs of distributions are compiled for their own glibc: /bin/sh stands for one of the driver's.
#[test]
fn what_the_images_glibc_cannot_load_is_left_out_or_told() {
    let f = fixture();
    let mut libc = fs::read(f.lib.join("libc.so.6")).unwrap();
    libc.extend(b"\0GNU C Library (Debian GLIBC 2.17-1) stable release version 2.17.\0");
    fs::write(f.lib.join("libc.so.6"), libc).unwrap();
    let program = image::elf::glibc_needed(&fs::File::open("/bin/sh").unwrap()).unwrap();
    assert!(program > Some((2, 17)), "{program:?}");
    fs::copy("/bin/sh", f.at("driver/usr/bin/nvidia-smi")).unwrap();
    let has_it = |report: &InjectReport| report.items.iter().any(|item| item.path.ends_with("/nvidia-smi"));
    let told =
        |report: &InjectReport| report.findings().into_iter().find(|found| found.code == Code::LibcTooOld);

    let all = ContainerRequest { named: BTreeSet::new(), ..request() };
    let report = f.copy(&all).unwrap();
    let finding = told(&report).unwrap();
    assert!(!has_it(&report) && finding.severity == Severity::Info, "{finding:?}");
    assert!(
        finding.message.contains("glibc 2.17")
            && finding.evidence[0].contains("nvidia-smi requires glibc 2."),
        "{finding:?}"
    );

    let named = ContainerRequest { named: BTreeSet::from([Capability::Utility]), ..request() };
    let report = f.copy(&named).unwrap();
    assert!(has_it(&report) && told(&report).unwrap().severity == Severity::Warning);
}
