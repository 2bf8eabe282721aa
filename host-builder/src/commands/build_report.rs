//! What a build says of its result.

use crate::cache::sha256_file;
use crate::cli::BuildInitrd;
use crate::error::{Doing, Result};
use crate::plan::Plan;
use crate::select::Need;
use crate::ui::{Ui, megabytes};
use image::manifest::{Kind, Manifest, Purpose};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fmt::Write;
use std::time::Duration;

/// Memory of a guest beside the initrd: kernel image, its data, PID 1, page tables and a small container. Measured
/// with the default profile.
const GUEST_BASE: u64 = 110 << 20;
const PAGE: u64 = 4096;

/// The result of a build.
#[derive(Debug, Serialize)]
pub struct Report {
    initrd: String,
    initrd_bytes: u64,
    initrd_sha256: String,
    unpacked_bytes: u64,
    minimum_memory_mib: u64,
    kernel: String,
    kernel_release: String,
    lock: String,
    driver: String,
    capabilities: Vec<String>,
    modules: Vec<String>,
    firmware: Vec<String>,
    libraries_and_programs: Vec<String>,
    needs: Vec<Need>,
    notes: Vec<String>,
    compression: String,
    recommended_cmdline: &'static str,
    seconds: BTreeMap<String, f64>,
}

/// Kernel parameters that a guest with this initrd should have. ramfs instead of tmpfs: no limit of half the memory.
pub const RECOMMENDED_CMDLINE: &str = "rootfstype=ramfs";

impl Report {
    /// Collects the figures of a finished build.
    pub fn new(plan: &Plan, args: &BuildInitrd, ui: &Ui) -> Result<Self> {
        let manifest = &plan.manifest;
        let initrd_bytes = std::fs::metadata(&args.output).doing("reading", &args.output)?.len();
        let driver = manifest.driver.as_ref();
        Ok(Self {
            initrd: args.output.display().to_string(),
            initrd_bytes,
            initrd_sha256: sha256_file(&args.output)?,
            unpacked_bytes: manifest.unpacked_bytes(),
            minimum_memory_mib: minimum_memory(manifest, initrd_bytes).div_ceil(1 << 20),
            kernel: args.kernel_output.display().to_string(),
            kernel_release: manifest.kernel_release.clone(),
            lock: args.lock.display().to_string(),
            driver: driver.map(|driver| driver.version.clone()).unwrap_or_default(),
            capabilities: manifest.capabilities.clone(),
            modules: manifest.modules.iter().map(|module| module.name.clone()).collect(),
            firmware: driver.map(|driver| driver.firmware.clone()).unwrap_or_default(),
            libraries_and_programs: driver_files(manifest),
            needs: plan.needs.clone(),
            notes: plan.notes.clone(),
            compression: args.compression.to_string(),
            recommended_cmdline: RECOMMENDED_CMDLINE,
            seconds: ui.stages().into_iter().map(|(name, took)| (name, seconds(took))).collect(),
        })
    }

    /// As JSON.
    pub fn json(&self) -> String {
        serde_json::to_string_pretty(self).expect("a report holds nothing that JSON cannot")
    }
}

fn seconds(time: Duration) -> f64 {
    (time.as_secs_f64() * 100.0).round() / 100.0
}

/// The image and what it unpacks to are in memory at the same time.
fn minimum_memory(manifest: &Manifest, initrd_bytes: u64) -> u64 {
    let pages = |file: &image::manifest::File| match file.kind {
        Kind::File { size, .. } => size.div_ceil(PAGE) * PAGE,
        _ => 0,
    };
    manifest.files.iter().map(pages).sum::<u64>() + initrd_bytes + GUEST_BASE
}

fn driver_files(manifest: &Manifest) -> Vec<String> {
    let file = |path: &str| path.rsplit('/').next().unwrap_or(path).to_owned();
    let of_containers = manifest.files.iter().filter(|entry| !entry.capabilities.is_empty());
    let mut files: Vec<_> = of_containers.map(|entry| file(&entry.path)).collect();
    // A library comes twice with 32 bits.
    let mut seen = BTreeSet::new();
    files.retain(|name| seen.insert(name.clone()));
    files
}

/// What a container must bring, on one line.
fn needs_text(needs: &[Need]) -> String {
    let of = |need: &Need| {
        let names: Vec<_> = need.capabilities.iter().map(|capability| capability.name()).collect();
        format!("{} ({})", need.library, names.join(", "))
    };
    needs.iter().map(of).collect::<Vec<_>>().join(", ")
}

impl fmt::Display for Report {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let total: f64 = self.seconds.values().sum();
        let stages: Vec<_> = self.seconds.iter().filter(|(_, took)| **took >= 0.05).collect();
        let stages: Vec<_> = stages.iter().map(|(name, took)| format!("{name} {took:.1} s")).collect();
        writeln!(out, "initrd    {}  {}", self.initrd, megabytes(self.initrd_bytes))?;
        writeln!(out, "          sha256 {}", self.initrd_sha256)?;
        writeln!(out, "kernel    {}  {}", self.kernel, self.kernel_release)?;
        writeln!(out, "lock      {}", self.lock)?;
        writeln!(out, "driver    {}  for {}", self.driver, self.capabilities.join(", "))?;
        writeln!(out, "files     {}", self.libraries_and_programs.join(" "))?;
        if !self.needs.is_empty() {
            writeln!(out, "needs     from the container: {}", needs_text(&self.needs))?;
        }
        for note in &self.notes {
            writeln!(out, "note      {note}")?;
        }
        writeln!(out, "firmware  {}", self.firmware.join(" "))?;
        writeln!(out, "modules   {}", self.modules.join(" "))?;
        writeln!(
            out,
            "memory    unpacks to {}; a guest needs at least {} MiB, with {} on its kernel command line",
            megabytes(self.unpacked_bytes),
            self.minimum_memory_mib,
            self.recommended_cmdline
        )?;
        writeln!(out, "time      {total:.1} s: {}", stages.join(", "))
    }
}

/// The plan for people: modules in load order, then every file.
pub fn plan_text(plan: &Plan) -> String {
    let manifest = &plan.manifest;
    let mut text = format!(
        "plan of {}: kernel {}, driver {}, capabilities {}\n\nmodules, in load order:\n",
        manifest.profile,
        manifest.kernel_release,
        manifest.driver.as_ref().map_or("none", |driver| driver.version.as_str()),
        manifest.capabilities.join(", "),
    );
    for module in &manifest.modules {
        let when = if module.purpose == Purpose::Boot { "boot" } else { "gpu " };
        let _ = writeln!(text, "  {when}  {} {}", module.name, module.parameters);
    }
    text.push_str("\nfiles:\n");
    for file in &manifest.files {
        let _ = match &file.kind {
            Kind::File { size, .. } => {
                writeln!(text, "  {size:>10}  {}  ({}; {})", file.path, file.origin, file.reason)
            }
            Kind::Link { target } => {
                writeln!(
                    text,
                    "  {:>10}  {} -> {target}  ({}; {})",
                    "link", file.path, file.origin, file.reason
                )
            }
            Kind::Directory => Ok(()),
        };
    }
    if !plan.needs.is_empty() {
        let _ = writeln!(text, "\nneeds from the container: {}", needs_text(&plan.needs));
    }
    for note in &plan.notes {
        let _ = writeln!(text, "\nnote: {note}");
    }
    let _ = writeln!(text, "\nunpacked: {}", megabytes(manifest.unpacked_bytes()));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_counts_pages_not_bytes() {
        let file = |path: &str, size| image::manifest::File {
            path: path.into(),
            kind: Kind::File { size, sha256: String::new() },
            mode: 0o644,
            origin: String::new(),
            reason: "capability compute".into(),
            capabilities: vec![image::capability::Capability::Compute],
        };
        let manifest = Manifest {
            format: 1,
            builder: String::new(),
            profile: String::new(),
            arch: String::new(),
            kernel_release: String::new(),
            driver: None,
            capabilities: vec![],
            modules: vec![],
            files: vec![file("/a", 1), file("/b", 4097)],
        };
        assert_eq!(minimum_memory(&manifest, 100), 3 * 4096 + 100 + GUEST_BASE);
        assert_eq!(driver_files(&manifest), ["a", "b"]);
    }
}
