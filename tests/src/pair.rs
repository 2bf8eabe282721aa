//! Images of other pairs of a kernel and a driver than the default one, made by the real `host-builder`.

use std::{
    path::Path,
    process::{Command, Output, Stdio},
};

use crate::build::program;

/// The lock, the initrd and the kernel of a pair, in its directory.
pub const LOCK: &str = "pair.lock";
/// The initrd.
pub const INITRD: &str = "initrd.img";
/// The kernel.
pub const KERNEL: &str = "vmlinuz";

/// Runs `host-builder` in the directory of a pair, with its lock. Panics if it cannot be run.
pub fn run(place: &Path, words: &[&str]) -> Output {
    let mut command = Command::new(program());
    command.args(words).args(["--lock", LOCK, "--quiet"]).current_dir(place).stdin(Stdio::null());
    command.output().expect("host-builder can be run")
}

/// Builds the image of a pair from what its lock names; if that is gone, or there is no lock, from what the archives have now.
///
/// # Errors
/// What the build said.
pub fn build(place: &Path, pair: &[&str]) -> Result<(), String> {
    let options = ["--output", INITRD, "--kernel-output", KERNEL, "--payload", "image"];
    let build = [&["build-initrd"], &options[..], pair].concat();
    let mut output = run(place, &build);
    if !output.status.success() {
        output = run(place, &[&build[..], &["--update-lock"]].concat());
    }
    if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
}
