//! Promises of the README that are numbers or shapes.

use image::code::CODES;
use image::elf;
use std::path::Path;

#[test]
fn guest_init_is_static_and_below_its_size() {
    let program = host_builder::GUEST_INIT;
    assert!(
        program.len() < 1_500_000,
        "guest-init has {} bytes, it promises less than 1.5 MB",
        program.len()
    );
    let elf = elf::read(program).expect("host-builder carries an ELF program");
    assert_eq!((elf.interp, elf.needed), (None, vec![]), "PID 1 runs before there is any library");
}

/// A code that no test names is one that nobody has seen happen.
#[test]
fn every_finding_is_named_by_a_test() {
    let codes: Vec<String> = CODES.iter().map(|known| format!("{:?}", known.code)).collect();
    let mut tests = String::new();
    for entry in walkdir::WalkDir::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests")) {
        let entry = entry.expect("the tests are readable");
        if entry.file_type().is_file() && entry.file_name() != "promises.rs" {
            tests += &std::fs::read_to_string(entry.path()).expect("the tests are text");
        }
    }
    let lines: Vec<_> = tests.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
    let is_named = |code: &&String| {
        let words = lines.iter().flat_map(|line| line.split("Code::").skip(1));
        words
            .filter_map(|rest| rest.split(|c: char| !c.is_alphanumeric()).next())
            .any(|word| word == code.as_str())
    };
    let unnamed: Vec<_> = codes.iter().filter(|code| !is_named(code)).collect();
    assert!(unnamed.is_empty(), "no test makes these happen: {unnamed:?}");
}
