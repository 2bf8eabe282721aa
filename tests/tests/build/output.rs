//! What `build-initrd` prints, and where.

use std::{collections::BTreeSet, fs, path::Path};

use host_builder::initramfs::{Archive, Item, Want};
use rig::{build::default_initrd, terminal};

use super::{content::manifest_bytes, sandbox::Sandbox};

/// The keys of the JSON result.
const KEYS: &[&str] = &[
    "capabilities",
    "compression",
    "cuda",
    "driver",
    "firmware",
    "gpus",
    "initrd",
    "initrd_bytes",
    "initrd_sha256",
    "kernel",
    "kernel_release",
    "libraries_and_programs",
    "lock",
    "minimum_memory_mib",
    "modules",
    "needs",
    "notes",
    "payload",
    "recommended_cmdline",
    "seconds",
    "total_seconds",
    "unpacked_bytes",
];

#[test]
fn docs_list_the_keys_of_the_json_result() {
    let page = include_str!("../../../docs/building.md");
    let section = page.split_once("\n### The JSON result\n").unwrap().1;
    let sentence = section.split_once("these keys:").unwrap().1.split_once(". `--dry-run").unwrap().0;
    let listed: Vec<_> = sentence.split('`').skip(1).step_by(2).collect();
    assert_eq!(listed, KEYS);
}

#[test]
fn dry_run_prints_the_plan_and_writes_nothing() {
    let sandbox = Sandbox::new();
    fs::remove_file(sandbox.path("initrd.lock")).unwrap();
    let lock = default_initrd().lock.to_str().unwrap();
    let mut command = std::process::Command::new(rig::build::program());
    sandbox.prepare(command.args([
        "build-initrd",
        "--lock",
        lock,
        "--payload",
        "files",
        "--dry-run",
        "--json",
    ]));
    let output = command.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert!(
        output.stdout == manifest_bytes(&default_initrd().initrd),
        "the plan is not the manifest of the image"
    );
    assert!(!sandbox.path("out").exists() && !sandbox.path("initrd.lock").exists());
    sandbox.nothing_is_half_made();
}

#[test]
fn dry_run_as_text_lists_modules_and_files() {
    let output = Sandbox::new().build(&["--dry-run"]);
    let text = String::from_utf8(output.stdout).unwrap();
    for part in ["modules, in load order:", "nvidia_uvm", "/init", "/usr/bin/nvidia-smi", "unpacked: "] {
        assert!(text.contains(part), "{part:?} is not in {text}");
    }
}

#[test]
fn json_has_the_documented_keys_and_quiet_prints_nothing() {
    let report = &default_initrd().report;
    let keys: BTreeSet<_> = report.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(keys, KEYS.iter().copied().collect());
    assert_eq!(
        fs::metadata(&default_initrd().initrd).unwrap().len(),
        report["initrd_bytes"].as_u64().unwrap()
    );
    assert!(
        report["minimum_memory_mib"].as_u64().unwrap() > report["unpacked_bytes"].as_u64().unwrap() >> 20
    );

    let sandbox = Sandbox::new();
    let output = sandbox.build(&["--quiet"]);
    assert!(output.status.success() && output.stdout.is_empty() && output.stderr.is_empty(), "{output:?}");
    let mut outputs = sandbox.outputs();
    outputs.sort();
    assert_eq!(outputs, [sandbox.path("out/initrd.img"), sandbox.path("out/vmlinuz")]);
    sandbox.nothing_is_half_made();
    // With another archive, another profile file and another cache, and the same lock otherwise.
    assert_eq!(
        host_builder::common::digest::sha256_file(&sandbox.path("out/initrd.img")).unwrap(),
        default_initrd().sha256()
    );
}

/// Lists are summed up, and the lines that are needed next are the last ones, also where lines
/// wrap.
#[test]
fn report_fits_80_columns_and_ends_with_the_key_lines() {
    let sandbox = Sandbox::new();
    let little = ["--gpu", "h100", "--compression", "none"];
    let text = terminal::shown(80, &sandbox.command(&little), 300).unwrap();
    // Behind the last that is drawn over.
    let lines = terminal::lines(text.rsplit_once("\x1b[2K").unwrap().1);
    assert!(lines.iter().all(|line| line.chars().count() <= 80), "{text}");
    let digest = host_builder::common::digest::sha256_file(&sandbox.path("out/initrd.img")).unwrap();
    assert_eq!(lines.last().unwrap(), &format!("sha256    {digest}"));
    assert!(lines[lines.len() - 2].starts_with("initrd    out/initrd.img  "), "{text}");
    let words = lines.join(" ");
    let (_, gpus) = words.split_once("/gsp_ga10x.bin").unwrap();
    let (first, _) = gpus.split_once("needs  ").unwrap();
    assert!(first.contains("for 10de:2") && first.contains(" NVIDIA ") && first.contains(" +"), "{text}");
    assert!(!words.contains("libcuda.so"), "{text}");

    let output = sandbox.build(&[&little[..], &["--verbose"]].concat());
    let text = String::from_utf8(output.stdout).unwrap();
    let line = |name: &str| {
        text.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("{name}: {text}"))
    };
    assert!(line("files").contains("libcuda.so") && line("firmware").matches("10de:").count() > 5, "{text}");
    assert!(line("modules").contains("nvidia_uvm"), "{text}");
}

#[test]
fn every_compression_contains_the_same_archive() {
    let sandbox = Sandbox::new();
    let read = |path: &Path| {
        let want = Want { digests: true, keep: &|_| false };
        let items = Archive::open(path).unwrap().read(&want).unwrap().items;
        let entry = |item: Item| (item.entry.text().into_owned(), item.entry.mode, item.target, item.sha256);
        items.into_iter().map(entry).collect::<Vec<_>>()
    };
    let mut expected = None;
    for how in ["none", "zstd:1", "lz4", "gzip"] {
        let little = ["--capabilities", "utility", "--gpu", "t4"];
        let output = sandbox.build(&[&["--quiet", "--compression", how], &little[..]].concat());
        assert!(output.status.success(), "{output:?}");
        let found = read(&sandbox.path("out/initrd.img"));
        assert!(found.len() > 20 && *expected.get_or_insert_with(|| found.clone()) == found, "{how}");
    }
}
