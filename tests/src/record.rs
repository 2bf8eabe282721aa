//! Records tests that could not run, and findings that were produced in a guest. `tests/run` names
//! the files and prints the records in its last lines.

use std::{fs::OpenOptions, io::Write as _};

use image::status::Code;

/// The variable with the file of tests that did not run.
const NOT_RUN: &str = "GPU_INITRD_TESTS_NOT_RUN";
/// The variable with the file of findings that were seen.
const SEEN: &str = "GPU_INITRD_TESTS_SEEN";

/// Records a test, or a part of one, that cannot run here, and why. `tests/run` prints it in its
/// last lines. Panics outside of `tests/run`: a test that did not run must not look like one that
/// passed.
pub fn not_run(what: &str, why: &str) {
    assert!(append(NOT_RUN, &format!("{what}: {why}")), "{what} cannot run: {why}");
}

/// Records that a finding was produced in a guest and checked. `tests/run` compares the record with
/// the table of codes.
pub fn seen(code: Code) {
    append(SEEN, &code.name());
}

/// Appends a line to the file that an environment variable names. Returns whether it is set.
fn append(variable: &str, line: &str) -> bool {
    let Some(path) = std::env::var_os(variable) else { return false };
    let file = OpenOptions::new().create(true).append(true).open(&path);
    let written = file.and_then(|mut file| file.write_all(format!("{line}\n").as_bytes()));
    written.unwrap_or_else(|error| panic!("{variable}={}: {error}", path.display()));
    true
}
