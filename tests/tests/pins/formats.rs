//! Installers and packages that the real programs make around the real files.

use std::{fs, path::Path};

use host_builder::artifacts::unpack::{Unpacked, Unpacker};
use host_builder::common::digest::sha256_file;
use host_builder::pins::artifact::MAX_UNPACKED;
use host_builder::programs::tools::Tools;
use rig::process::run;

use super::place::{installer, makers, parts};

fn unpack(archive: &Path) -> (tempfile::TempDir, Vec<Unpacked>) {
    let root = tempfile::tempdir().unwrap();
    let mut unpacker = Unpacker::new(root.path()).bound(MAX_UNPACKED);
    unpacker.file(archive, "archive").unwrap();
    let files = unpacker.finish();
    (root, files)
}

/// The smaller libraries and programs: files of the driver, and links among them.
fn source() -> tempfile::TempDir {
    let dir = tempfile::Builder::new().prefix("gpu-rig-formats-").tempdir().unwrap();
    let lib = dir.path().join("usr/lib64");
    fs::create_dir_all(&lib).unwrap();
    fs::create_dir_all(dir.path().join("usr/bin")).unwrap();
    for entry in walkdir::WalkDir::new(parts().path("libs")).into_iter().map(Result::unwrap) {
        let small = entry.metadata().unwrap().len() < 8 << 20;
        if small && entry.file_type().is_file() {
            let program = entry.path().components().any(|part| part.as_os_str() == "bin");
            let to = if program { dir.path().join("usr/bin") } else { lib.clone() };
            fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        }
    }
    std::os::unix::fs::symlink("libnvidia-ml.so.1", lib.join("libnvidia-ml.so")).unwrap();
    assert!(fs::read_dir(&lib).unwrap().count() > 3);
    dir
}

/// Every file of the source is there, byte by byte, and executable where it was.
fn same(source: &Path, files: &[Unpacked]) {
    let mut count = 0;
    for entry in
        walkdir::WalkDir::new(source).into_iter().map(Result::unwrap).filter(|e| e.file_type().is_file())
    {
        let path = entry.path().strip_prefix(source).unwrap().to_str().unwrap();
        let file =
            files.iter().find(|file| file.path == path).unwrap_or_else(|| panic!("{path} is not there"));
        assert_eq!(file.sha256, sha256_file(entry.path()).unwrap(), "{path}");
        let mode = std::os::unix::fs::PermissionsExt::mode(&entry.metadata().unwrap().permissions());
        assert_eq!(file.executable, mode & 0o111 != 0, "{path}");
        count += 1;
    }
    assert!(count > 4 && files.len() >= count, "{count}");
}

#[test]
fn installers_are_unpacked_and_never_run() {
    let source = source();
    let trap = source.path().join("nvidia-installer");
    let out = tempfile::tempdir().unwrap();
    let proof = out.path().join("was-run");
    fs::write(&trap, format!("#!/bin/sh\ntouch {}\n", proof.display())).unwrap();
    for compression in ["--gzip", "--xz", "--zstd"] {
        let run = out.path().join(format!("x{compression}.run"));
        installer(source.path(), &run, compression);
        let (root, files) = unpack(&run);
        same(source.path(), &files);
        assert!(fs::symlink_metadata(root.path().join("usr/lib64/libnvidia-ml.so")).unwrap().is_symlink());
    }
    assert!(!proof.exists(), "the installer was run");
}

#[test]
fn packages_of_rpmbuild_are_unpacked() {
    let source = source();
    let out = tempfile::tempdir().unwrap();
    let spec = out.path().join("x.spec");
    let top = out.path().display();
    fs::write(&spec, format!(
        "Name: nvidia-driver-libs\nVersion: 550.163.01\nRelease: 1\nSummary: x\nLicense: x\n%description\nx\n\
         %install\nmkdir -p %{{buildroot}}\ncp -a {}/usr %{{buildroot}}/\n%files\n/usr\n", source.path().display())).unwrap();
    for payload in ["w9.gzdio", "w3.xzdio", "w3.zstdio"] {
        let visible = [out.path().to_owned(), source.path().to_owned()];
        let mut rpmbuild = makers().command("rpmbuild", &visible);
        rpmbuild.args([
            "-bb",
            "--define",
            &format!("_topdir {top}"),
            "--define",
            &format!("_binary_payload {payload}"),
        ]);
        rpmbuild.args([
            "--define",
            "debug_package %{nil}",
            "--define",
            "__os_install_post %{nil}",
            "--define",
            "_build_id_links none",
        ]);
        run(rpmbuild.args(["--define", "__strip /bin/true", "--nodeps"]).arg(&spec)).unwrap();
        let mut packages = walkdir::WalkDir::new(out.path().join("RPMS")).into_iter().map(Result::unwrap);
        let package =
            packages.find(|entry| entry.path().extension().is_some_and(|ending| ending == "rpm")).unwrap();
        let (root, files) = unpack(package.path());
        same(source.path(), &files);
        assert!(
            fs::symlink_metadata(root.path().join("usr/lib64/libnvidia-ml.so")).unwrap().is_symlink(),
            "{payload}"
        );
        fs::remove_dir_all(out.path().join("RPMS")).unwrap();
    }
}
