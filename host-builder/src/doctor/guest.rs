//! Runs guest-init on a container root: the guest-init built into host-builder creates the driver's
//! layer as it would at boot. The root is not changed.

use crate::common::error::{Doing, Error, Result};
use crate::programs::sandbox::{tail, wait};
use image::status::Finding;
use serde::Deserialize;
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

/// Longest time for the answer. guest-init may open thousands of libraries.
const DEADLINE: Duration = Duration::from_mins(5);
/// Most bytes of the answer.
const MAX_ANSWER: u64 = 16 << 20;

/// The used part of guest-init's output (`InjectReport`).
#[derive(Debug, Default, Deserialize)]
pub struct Answer {
    /// The loader of the container's libraries.
    pub libc: String,
    /// Whether there is a Nix or Guix store.
    pub store: bool,
    /// What the container gets.
    pub items: Vec<Item>,
    /// Driver files of the image that are hidden.
    pub masked: Vec<String>,
    /// Directory of the CUDA compatibility libraries that are used.
    pub compat_dir: Option<String>,
    /// Warnings for the operator.
    pub findings: Vec<Finding>,
    /// What was skipped.
    pub warnings: Vec<String>,
}

/// A path that the container gets.
#[derive(Debug, Deserialize)]
pub struct Item {
    /// Path in the container.
    pub path: String,
    /// `file` or `link`.
    pub kind: String,
    /// Target of a link.
    pub target: String,
}

/// Runs guest-init on `root` with the driver in `driver` and a configuration. Changes none of them.
/// `work` is a directory for the layer.
pub fn ask(root: &Path, driver: &Path, config: Option<&Path>, work: &Path) -> Result<Answer> {
    let (program, layer) = (work.join("guest-init"), work.join("layer"));
    fs::create_dir_all(&layer).doing("creating", &layer)?;
    fs::write(&program, crate::GUEST_INIT).doing("writing", &program)?;
    fs::set_permissions(&program, fs::Permissions::from_mode(0o700))
        .doing("setting the mode of", &program)?;
    let (out, err) = (work.join("answer"), work.join("errors"));
    let create = |path: &Path| File::create(path).doing("creating", path);
    let mut command = Command::new(&program);
    command.env_clear().current_dir("/").stdin(Stdio::null()).stdout(create(&out)?).stderr(create(&err)?);
    command.arg("inject").arg("--root").arg(root).arg("--driver").arg(driver).arg("--layer").arg(&layer);
    if let Some(config) = config {
        command.arg("--config").arg(std::path::absolute(config).doing("looking for", config)?);
    }
    let what = "running guest-init on the container root";
    let status = wait(command, what, DEADLINE, &mut || Ok(()))?;
    let mut bytes = Vec::new();
    let answer = File::open(&out).doing("opening", &out)?;
    answer.take(MAX_ANSWER).read_to_end(&mut bytes).doing("reading", &out)?;
    serde_json::from_slice(&bytes).map_err(|error| {
        let said = tail(&err).unwrap_or_default();
        let said = said.trim();
        if said.is_empty() {
            Error::new(format!("{what} ({status})")).source(error)
        } else {
            Error::new(format!("{what} ({status}): {said}"))
        }
    })
}
