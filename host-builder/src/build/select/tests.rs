use super::*;
use crate::artifacts::unpack::Unpacked;
use crate::common::digest::sha256;
use image::capability::Capability::{Compat32, Compute, Display, Graphics, Utility, Video};
use std::fs;

const DRIVER: &str = "550.163.01";

/// Unpacked packages whose files are ELF stubs or text.
struct Packages {
    directory: tempfile::TempDir,
    trees: Vec<Tree>,
}

impl Packages {
    fn new() -> Self {
        Self { directory: tempfile::tempdir().unwrap(), trees: Vec::new() }
    }

    /// Adds a package with one file.
    fn with(mut self, path: &str, executable: bool, content: &[u8]) -> Self {
        let root = self.directory.path().join(self.trees.len().to_string());
        let file = root.join(path);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(&file, content).unwrap();
        let file =
            Unpacked { path: path.into(), size: content.len() as u64, sha256: sha256(content), executable };
        let key = self.trees.len().to_string();
        self.trees.push(Tree { root, origin: "package 1".into(), key, files: vec![file] });
        self
    }
}

/// An ELF file of 64 or 32 bits with nothing in it.
fn elf(class: u8) -> Vec<u8> {
    let (size, machine): (usize, u8) = if class == 2 { (64, 62) } else { (52, 3) };
    let mut bytes = vec![0; size];
    bytes[..7].copy_from_slice(&[0x7f, b'E', b'L', b'F', class, 1, 1]);
    bytes[16] = 3;
    bytes[18] = machine;
    bytes[20] = 1;
    let (ehsize, phentsize, shentsize) = if class == 2 { (52, 54, 58) } else { (40, 42, 46) };
    bytes[ehsize] = u8::try_from(size).unwrap();
    bytes[phentsize] = if class == 2 { 56 } else { 32 };
    bytes[shentsize] = if class == 2 { 64 } else { 40 };
    bytes
}

fn set(list: &[Capability]) -> BTreeSet<Capability> {
    list.iter().copied().collect()
}

/// The packages of `nvidia-smi` and NVML.
fn utility() -> Packages {
    Packages::new()
        .with("usr/lib/x/libnvidia-ml.so.550.163.01", false, &elf(2))
        .with("usr/lib/x/libnvidia-cfg.so.550.163.01", false, &elf(2))
        .with("usr/share/bug/nvidia-smi", false, b"not this")
        .with("etc/init.d/nvidia-smi", true, b"#!/bin/sh")
        .with("usr/lib/nvidia/current/nvidia-smi", true, &elf(2))
        .with("usr/bin/nvidia-modprobe", true, &elf(2))
}

#[test]
fn capabilities_are_parsed_as_containers_name_them() {
    let list =
        |words: &[&str]| capabilities(&words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>());
    assert_eq!(list(&["utility", "compute", "utility"]).unwrap(), set(&[Compute, Utility]));
    assert_eq!(list(&["all"]).unwrap(), BTreeSet::from(Capability::ALL));
    assert!(list(&["graphic"]).unwrap_err().remedy().unwrap().contains("graphics"));
    assert!(list(&[]).is_err() && list(&[""]).is_err());
    assert!(list(&["compat32"]).unwrap_err().remedy().unwrap().contains("compute"));
}

#[test]
fn version_is_compared_to_the_last_digit() {
    let packages = utility().with("usr/lib/libnvidia-ml.so.550.163.1", false, &elf(2));
    let error = select(&packages.trees[1..], &[], &set(&[Utility]), DRIVER, Absent::IsAnError)
        .unwrap_err()
        .to_string();
    assert!(error.contains("expects libnvidia-ml.so.550.163.01"), "{error}");
    assert!(error.contains("have libnvidia-ml.so.550.163.1"), "{error}");
}

#[test]
fn program_is_executable_and_files_have_a_reason() {
    let selection = select(&utility().trees, &[], &set(&[Utility, Display]), DRIVER, Absent::IsAnError);
    // The packages lack files of display.
    assert!(selection.unwrap_err().to_string().contains("of driver 550.163.01 expects"));
    let packages = utility();
    let selection = select(&packages.trees, &[], &set(&[Utility]), DRIVER, Absent::IsAnError).unwrap();
    let smi = selection.files.iter().find(|file| file.path == "/usr/bin/nvidia-smi").unwrap();
    assert_eq!(smi.file.path, "usr/lib/nvidia/current/nvidia-smi");
    assert_eq!((smi.capabilities.as_slice(), smi.reason.as_str()), (&[Utility][..], "capability utility"));
    assert_eq!(selection.files.len(), 4);
}

#[test]
fn libraries_of_32_bits_have_their_own_directory() {
    let (packages, other) =
        (utility(), Packages::new().with("usr/lib/libnvidia-ml.so.550.163.01", false, &elf(1)));
    let selection =
        select(&packages.trees, &other.trees, &set(&[Compat32, Utility]), DRIVER, Absent::IsAnError).unwrap();
    let file = selection.files.iter().find(|file| file.path.starts_with(layout::DRIVER_LIB32_DIR)).unwrap();
    assert_eq!(file.path, "/usr/lib32/nvidia/libnvidia-ml.so.550.163.01");
    assert_eq!(file.capabilities, [Compat32, Utility]);
    assert_eq!(file.reason, "capabilities compat32, utility");

    let wide =
        select(&packages.trees, &packages.trees, &set(&[Compat32, Utility]), DRIVER, Absent::IsAnError)
            .unwrap_err();
    assert!(wide.to_string().contains("compat32"), "{wide}");
    let narrow = select(&other.trees, &[], &set(&[Utility]), DRIVER, Absent::IsAnError).unwrap_err();
    assert!(narrow.to_string().contains("expected Elf64, found Elf32"), "{narrow}");
    let mixed: Vec<_> = other.trees.iter().chain(&packages.trees).cloned().collect();
    let selection = select(&mixed, &mixed, &set(&[Compat32, Utility]), DRIVER, Absent::IsAnError).unwrap();
    assert_eq!(selection.files.iter().filter(|file| file.path.contains("libnvidia-ml")).count(), 2);
    let none =
        select(&packages.trees, &[], &set(&[Compat32, Utility]), DRIVER, Absent::IsAnError).unwrap_err();
    assert!(none.to_string().contains("compat32"), "{none}");
}

#[test]
fn the_drivers_list_decides_except_for_required_files() {
    let list = r#"[{"name": "libnvidia-ml.so.550.163.01", "type": "LIB", "category": ["nvml", "cuda"]},
        {"name": "libnvidia-new.so.550.163.01", "type": "LIB", "category": ["utils"]},
        {"name": "libnvidia-odd.so.550.163.01", "type": "LIB", "category": ["odd"]}]"#;
    let packages = utility()
        .with("usr/lib/libnvidia-new.so.550.163.01", false, &elf(2))
        .with("usr/lib/libnvidia-odd.so.550.163.01", false, &elf(2))
        .with("usr/bin/nvidia-debugdump", true, &elf(2))
        .with("usr/share/nvidia/files.d/sandboxutils-filelist.json", false, list.as_bytes());
    let selection = select(&packages.trees, &[], &set(&[Utility]), DRIVER, Absent::IsAnError).unwrap();
    let paths: Vec<_> = selection.files.iter().map(|file| file.path.rsplit('/').next().unwrap()).collect();
    let expected = ["libnvidia-ml", "libnvidia-cfg", "nvidia-smi", "nvidia-modprobe", "libnvidia-new"];
    assert_eq!(paths.len(), expected.len(), "{paths:?}");
    assert!(expected.iter().all(|name| paths.iter().any(|path| path.starts_with(name))), "{paths:?}");
    assert!(selection.notes[0].contains("libnvidia-odd"), "{:?}", selection.notes);
}

#[test]
fn data_file_must_name_a_selected_library() {
    let with = |content: &str| {
        let icd = Packages::new().with("usr/share/vulkan/icd.d/nvidia_icd.json", false, content.as_bytes());
        let wanted = wanted::wanted(&icd.trees, &set(&[Graphics]), DRIVER).unwrap().0;
        let wanted = wanted.iter().find(|wanted| wanted.name == "nvidia_icd.json").unwrap();
        let found = find::find(&icd.trees, wanted, Width::Native, DRIVER).unwrap().unwrap();
        assert_eq!(found.file.path, "/usr/share/gpu-initrd/data/usr/share/vulkan/icd.d/nvidia_icd.json");
        needs::check_data(&[found])
    };
    for (content, text) in [
        (r#"{"ICD": {"library_path": "/usr/lib/libGLX_nvidia.so.0"}}"#, "/usr/lib/libGLX_nvidia.so.0"),
        (r#"{"ICD": {"library_path": "libGLX_nvidia.so.0"}}"#, "a library that is selected"),
        (r#"{"ICD": {}}"#, "names no library"),
        ("ICD", "is not JSON"),
    ] {
        let error = with(content).unwrap_err();
        assert!(error.to_string().contains(text), "{error}");
    }
}

/// Packages for RPM: the architecture is in the name, and the library is named by its path.
#[test]
fn data_file_of_an_rpm_goes_to_its_usual_path() {
    let icd = format!("usr/share/vulkan/icd.d/nvidia_icd.{}.json", std::env::consts::ARCH);
    let packages = Packages::new()
        .with(&icd, false, br#"{"ICD": {"library_path": "/usr/lib64/libGLX_nvidia.so.550.163.01"}}"#)
        .with("usr/share/vulkan/icd.d/nvidia_icd.i686.json", false, b"of 32 bits")
        .with("usr/lib64/libGLX_nvidia.so.550.163.01", false, &elf(2));
    let wanted = wanted::wanted(&packages.trees, &set(&[Graphics]), DRIVER).unwrap().0;
    let found = |name: &str| {
        let wanted = wanted.iter().find(|wanted| wanted.name.starts_with(name)).unwrap();
        find::find(&packages.trees, wanted, Width::Native, DRIVER).unwrap().unwrap()
    };
    let (icd, library) = (found("nvidia_icd.json"), found("libGLX_nvidia"));
    assert_eq!(icd.file.path, "/usr/share/gpu-initrd/data/usr/share/vulkan/icd.d/nvidia_icd.json");
    needs::check_data(&[icd, library]).unwrap();
}

#[test]
fn script_is_an_error_unless_the_program_is_elsewhere() {
    let of = |packages: &Packages| select(&packages.trees, &[], &set(&[Utility]), DRIVER, Absent::IsAnError);
    let mut both = utility().with("usr/bin/nvidia-smi", true, b"#!/bin/sh\nexec x\n");
    both.trees.rotate_right(1);
    let chosen = of(&both).unwrap().files;
    assert!(chosen.iter().any(|file| file.file.path == "usr/lib/nvidia/current/nvidia-smi"), "{chosen:?}");
    both.trees.retain(|tree| tree.files[0].path != "usr/lib/nvidia/current/nvidia-smi");
    let error = of(&both).unwrap_err();
    assert!(error.to_string().ends_with("found a script (#!/bin/sh)"), "{error}");
}

#[test]
fn links_have_the_directory_of_their_target() {
    let packages = Packages::new().with("usr/lib/libvdpau_nvidia.so.550.163.01", false, &elf(1));
    let wanted = wanted::wanted(&packages.trees, &set(&[Video]), DRIVER).unwrap().0;
    let wanted = wanted.iter().find(|wanted| wanted.name.starts_with("libvdpau")).unwrap();
    let found = find::find(&packages.trees, wanted, Width::Compat32, DRIVER).unwrap().unwrap();
    assert_eq!(found.file.path, "/usr/lib32/nvidia/vdpau/libvdpau_nvidia.so.550.163.01");
    let links = links(&[found], &set(&[Video, Compat32]), DRIVER);
    assert_eq!(links.len(), 1, "{links:?}");
    assert_eq!(links[0].path, "/usr/lib32/nvidia/vdpau/libvdpau_nvidia.so.1");
    assert_eq!(links[0].target, "libvdpau_nvidia.so.550.163.01");
    assert_eq!(links[0].capabilities, [Compat32, Video]);
}

#[test]
fn missing_files_are_noted_except_those_of_cuda() {
    let packages = utility();
    let without = |path: &str| -> Vec<Tree> {
        packages.trees.iter().filter(|tree| !tree.files[0].path.contains(path)).cloned().collect()
    };
    let of = |trees: &[Tree], absent| select(trees, &[], &set(&[Utility]), DRIVER, absent);
    let parts = without("libnvidia-cfg");
    assert!(of(&parts, Absent::IsAnError).unwrap_err().to_string().contains("libnvidia-cfg"));
    let notes = of(&parts, Absent::IsNoted).unwrap().notes;
    assert_eq!(notes, ["libnvidia-cfg.so.550.163.01 is not in the artifacts (capability utility)"]);
    let error = of(&without("libnvidia-ml"), Absent::IsNoted).unwrap_err().to_string();
    assert!(error.contains("expects libnvidia-ml.so.550.163.01"), "{error}");
}
