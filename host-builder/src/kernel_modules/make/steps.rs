//! Counts the steps of a compilation for its progress: compiled files, and NVIDIA's tests of the
//! kernel's headers (conftest.sh), which take about as long.

use std::collections::BTreeSet;
use std::path::Path;
use walkdir::WalkDir;

/// Whether a line of make's output is a step: the kernel's `CC [M]  nvidia/nv.o`, `CONFTEST:
/// drm/drm.h`, or in NVIDIA's own makefiles `[ nvidia            ]  CC
/// src/kernel/core/system.c`.
pub fn is_one(line: &str) -> bool {
    let line = line.trim_start();
    line.starts_with("CC [M]") || line.starts_with("CONFTEST:") || line.contains(" ]  CC ")
}

/// Estimates the number of steps from the files of a source tree. Unreadable files are not counted.
pub fn expected(tree: &Path) -> u64 {
    let mut compiled = 0;
    let mut asked = BTreeSet::new();
    for entry in WalkDir::new(tree).into_iter().flatten().filter(|entry| entry.file_type().is_file()) {
        let name = entry.file_name().to_string_lossy();
        if [".c", ".cpp"].iter().any(|end| name.ends_with(end)) {
            compiled += 1;
        } else if name.ends_with("Kbuild") || name.ends_with(".mk") {
            let text = std::fs::read_to_string(entry.path()).unwrap_or_default();
            asked.extend(text.lines().filter_map(question).map(str::to_owned));
        }
    }
    compiled + asked.len() as u64
}

/// `NV_CONFTEST_TYPE_COMPILE_TESTS += vm_fault_t`, or a line of the list of headers: `drm/drm.h \`.
fn question(line: &str) -> Option<&str> {
    match line.trim().split_once("_TESTS") {
        Some((variable, rest)) if variable.starts_with("NV_CONFTEST_") => rest.split_whitespace().nth(1),
        Some(_) => None,
        None => line.trim_end_matches('\\').trim().strip_suffix(".h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_and_tests_are_counted_once() {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in [
            ("nv.c", ""),
            ("sub/uvm.c", ""),
            ("nv.h", ""),
            ("Kbuild", "obj-m += nvidia.o\nNV_CONFTEST_TYPE_COMPILE_TESTS += vm_fault_t\n"),
            (
                "sub/uvm.Kbuild",
                "NV_CONFTEST_TYPE_COMPILE_TESTS += vm_fault_t\nNV_CONFTEST_FUNCTION_COMPILE_TESTS += kmap\n",
            ),
            ("headers.mk", "NV_HEADER_PRESENCE_TESTS = \\\n  asm/system.h \\\n  drm/drm.h\n"),
        ] {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        assert_eq!(expected(dir.path()), 2 + 2 + 2);
    }

    #[test]
    fn lines_of_both_kinds_of_makefiles_are_steps() {
        for line in
            ["  CC [M]  /build/nv.o", " CONFTEST: drm/drm.h", " [ nvidia            ]  CC           a.c"]
        {
            assert!(is_one(line), "{line}");
        }
        for line in
            ["  LD [M]  nvidia.ko", "make: Entering directory", " [ nvidia            ]  LD           a.o"]
        {
            assert!(!is_one(line), "{line}");
        }
    }
}
