//! Promises of the documentation that can be measured.

use image::elf;
use std::fs;
use std::path::Path;
use walkdir::WalkDir;

#[test]
fn guest_init_is_static_and_within_its_size_limit() {
    let program = host_builder::GUEST_INIT;
    assert!(
        program.len() < 1_700_000,
        "guest-init has {} bytes, it promises less than 1.7 MB",
        program.len()
    );
    let elf = elf::read(program).expect("host-builder carries an ELF program");
    assert_eq!((elf.interp, elf.needed), (None, vec![]), "PID 1 runs before there is any library");
}

/// The compiler reports unused dependencies of libraries, but not unused dev-dependencies, because
/// it compiles each test separately.
#[test]
fn dev_dependencies_are_used() {
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    for package in ["guest-init", "host-builder", "image", "tests"] {
        let manifest = fs::read_to_string(top.join(package).join("Cargo.toml")).unwrap();
        let (_, section) = manifest.split_once("\n[dev-dependencies]\n").unwrap();
        let lines = section.lines().take_while(|line| !line.starts_with('['));
        let names: Vec<_> = lines
            .filter(|line| line.starts_with(|c: char| c.is_ascii_lowercase()))
            .map(|line| line.split(['.', ' ', '=']).next().unwrap().replace('-', "_"))
            .collect();
        assert!(!names.is_empty(), "{package}");
        let sources: String = WalkDir::new(top.join(package))
            .into_iter()
            .map(Result::unwrap)
            .filter(|entry| entry.path().extension().is_some_and(|extension| extension == "rs"))
            .map(|entry| fs::read_to_string(entry.path()).unwrap())
            .collect();
        for name in names {
            let is_used =
                [format!("{name}::"), format!("use {name}")].iter().any(|text| sources.contains(text));
            assert!(is_used, "{package}/Cargo.toml: nothing uses {name}: take it out");
        }
    }
}
