//! Drivers as systems have them, given without a manifest.

use super::*;

const VERSION: &str = "550.163.01";

/// The smallest library of 32 bits.
fn library32() -> Vec<u8> {
    let mut out = vec![0_u8; 52];
    out[..7].copy_from_slice(b"\x7fELF\x01\x01\x01");
    out[16..18].copy_from_slice(&3_u16.to_le_bytes());
    out[18..20].copy_from_slice(&3_u16.to_le_bytes());
    out[20] = 1;
    out[40] = 52;
    out[42] = 32;
    out[46] = 40;
    out
}

/// A container, and a driver with these files.
fn with(files: &[(&str, Vec<u8>)]) -> Fixture {
    let f = fixture();
    fs::remove_dir_all(f.at("driver")).unwrap();
    for (path, content) in files {
        let path = f.at("driver").join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
    fs::create_dir_all(f.at("driver")).unwrap();
    Fixture { driver: RootDir::open(&f.at("driver")).unwrap(), ..f }
}

fn files_of(report: &InjectReport) -> Vec<String> {
    let files = report.items.iter().filter(|item| item.kind == ItemKind::File);
    files.map(|item| format!("{} of {}", item.path.rsplit('/').next().unwrap(), item.target)).collect()
}

#[test]
fn each_systems_own_directories_are_found() {
    let smi = library("nvidia-smi");
    for (lib, bin) in [
        // Debian, its packages for data centres, Ubuntu, packages for RPM and the installer, Arch, Mageia.
        ("usr/lib/x86_64-linux-gnu/nvidia/current", "usr/lib/nvidia/current"),
        ("usr/lib/x86_64-linux-gnu/nvidia/tesla-550", "usr/lib/nvidia/tesla-550"),
        ("usr/lib/x86_64-linux-gnu", "usr/bin"),
        ("usr/lib64", "usr/bin"),
        ("usr/lib", "usr/bin"),
        ("usr/lib64/nvidia-current", "usr/sbin"),
        // Talos; Bottlerocket as it runs, and its image; NVIDIA's driver container; nodes of GKE.
        ("usr/local/glibc/usr/lib", "usr/local/bin"),
        ("usr/lib/nvidia/tesla", "usr/libexec/nvidia/tesla/bin"),
        (
            "x86_64-bottlerocket-linux-gnu/sys-root/usr/lib/nvidia/tesla/550.163.01",
            "x86_64-bottlerocket-linux-gnu/sys-root/usr/libexec/nvidia/tesla/bin/550.163.01",
        ),
        ("run/nvidia/driver/usr/lib/x86_64-linux-gnu", "run/nvidia/driver/usr/bin"),
        ("lib64", "bin"),
        ("", ""),
    ] {
        let at =
            |dir: &str, name: &str| if dir.is_empty() { name.to_owned() } else { format!("{dir}/{name}") };
        let libcuda = at(lib, &format!("libcuda.so.{VERSION}"));
        let (smi_at, modprobe) = (at(bin, "nvidia-smi"), at(bin, "nvidia-modprobe"));
        let f =
            with(&[(&libcuda, library("libcuda.so.1")), (&smi_at, smi.clone()), (&modprobe, smi.clone())]);
        let report = f.copy(&request()).unwrap();
        let mut found = files_of(&report);
        found.sort();
        let expected = [
            format!("libcuda.so.{VERSION} of /{libcuda}"),
            format!("nvidia-modprobe of /{modprobe}"),
            format!("nvidia-smi of /{smi_at}"),
        ];
        assert_eq!(found, expected, "{lib}");
        assert!(report.findings().is_empty(), "{lib}: {:?}", report.findings());
    }
}

/// NixOS: everything is a link into the store.
#[test]
fn links_into_a_store_are_followed_within_the_directory_only() {
    let f = with(&[
        (&format!("nix/store/1-x/lib/libcuda.so.{VERSION}"), library("libcuda.so.1")),
        ("nix/store/2-y/bin/nvidia-smi", library("nvidia-smi")),
    ]);
    let lib = f.at("driver/nix/store/3-z/lib");
    fs::create_dir_all(&lib).unwrap();
    let name = format!("libcuda.so.{VERSION}");
    symlink(format!("/nix/store/1-x/lib/{name}"), lib.join(&name)).unwrap();
    symlink(&name, lib.join("libcuda.so.1")).unwrap();
    fs::create_dir_all(f.at("driver/run/current-system/sw")).unwrap();
    symlink("/nix/store/3-z", f.at("driver/run/opengl-driver")).unwrap();
    symlink("/nix/store/2-y/bin", f.at("driver/run/current-system/sw/bin")).unwrap();
    let report = f.copy(&request()).unwrap();
    let expected = [
        format!("{name} of /nix/store/1-x/lib/{name}"),
        "nvidia-smi of /run/current-system/sw/bin/nvidia-smi".into(),
    ];
    assert_eq!(files_of(&report), expected);

    // The directory of links alone.
    let alone = RootDir::open(&f.at("driver/nix/store/3-z")).unwrap();
    let error = Inventory::of_directory(&alone).unwrap_err().to_string();
    assert!(error.contains(&format!("/lib/{name} is a link to /nix/store/1-x/lib/{name}")), "{error}");
}

/// Fedora and its relatives.
#[test]
fn files_of_32_bits_beside_those_of_64_are_told_by_what_they_are() {
    let f = with(&[
        (&format!("usr/lib64/libcuda.so.{VERSION}"), library("libcuda.so.1")),
        (&format!("usr/lib/libcuda.so.{VERSION}"), library32()),
        (&format!("usr/lib/libnvidia-ml.so.{VERSION}"), library32()),
        (&format!("usr/lib64/libnvidia-nvvm.so.{VERSION}"), b"no library".to_vec()),
    ]);
    let inventory = Inventory::of_directory(&f.driver).unwrap();
    let mut places: Vec<_> =
        inventory.files.iter().map(|file| format!("{:?} of {}", file.place, file.from.display())).collect();
    places.sort();
    assert_eq!(
        places,
        [
            format!("Library(\"libcuda.so.{VERSION}\") of /usr/lib64/libcuda.so.{VERSION}"),
            format!("Library(\"libnvidia-nvvm.so.{VERSION}\") of /usr/lib64/libnvidia-nvvm.so.{VERSION}"),
            format!("Library32(\"libcuda.so.{VERSION}\") of /usr/lib/libcuda.so.{VERSION}"),
            format!("Library32(\"libnvidia-ml.so.{VERSION}\") of /usr/lib/libnvidia-ml.so.{VERSION}"),
        ]
    );
}

#[test]
fn several_drivers_beside_each_other_are_an_error() {
    let f = with(&[
        ("usr/lib/x86_64-linux-gnu/nvidia/current/libcuda.so.550.163.01", library("libcuda.so.1")),
        ("usr/lib/x86_64-linux-gnu/nvidia/tesla-535/libcuda.so.535.274.02", library("libcuda.so.1")),
    ]);
    let error = Inventory::of_directory(&f.driver).unwrap_err();
    assert!(error.to_string().contains("535.274.02 and 550.163.01"), "{error}");
}

#[test]
fn a_program_that_is_missing_or_a_script_is_a_finding() {
    let libcuda = format!("usr/lib64/libcuda.so.{VERSION}");
    let f = with(&[
        (&libcuda, library("libcuda.so.1")),
        (&format!("usr/lib64/libnvidia-ml.so.{VERSION}"), library("libnvidia-ml.so.1")),
        ("usr/bin/nvidia-smi", b"#!/bin/sh\nexec /opt/x/nvidia-smi\n".to_vec()),
    ]);
    let report = f.copy(&request()).unwrap();
    let found = report.findings();
    let [finding] = &found[..] else { panic!("{:?}", report.findings()) };
    assert_eq!((finding.code, finding.severity), (Code::DriverFileMissing, Severity::Info));
    assert_eq!(
        finding.evidence,
        [
            "nvidia-modprobe is missing (capability utility)",
            "/usr/bin/nvidia-smi is a script, not the driver's program: it is left out"
        ]
    );
    assert!(!f.at("root/usr/bin/nvidia-smi").exists());
    let named = ContainerRequest { named: BTreeSet::from([Capability::Utility]), ..request() };
    assert_eq!(f.layer(&named).unwrap().findings()[0].severity, Severity::Warning);

    // The program itself is elsewhere.
    let f = with(&[
        (&libcuda, library("libcuda.so.1")),
        ("usr/bin/nvidia-smi", b"#!/bin/sh\n".to_vec()),
        ("usr/lib/nvidia/current/nvidia-modprobe", library("x")),
        ("usr/local/bin/nvidia-smi", library("x")),
    ]);
    let compute = ContainerRequest { capabilities: BTreeSet::from([Capability::Compute]), ..request() };
    let report = f.layer(&compute).unwrap();
    assert!(report.findings().is_empty(), "{:?}", report.findings());
    let report = f.copy(&request()).unwrap();
    assert!(files_of(&report).contains(&"nvidia-smi of /usr/local/bin/nvidia-smi".into()), "{report:?}");
    assert!(report.findings().is_empty(), "{:?}", report.findings());
}
