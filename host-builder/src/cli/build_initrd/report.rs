//! What a build says of its result.

use super::options::BuildInitrd;
use crate::build::pack::Packed;
use crate::build::payload::{Mode, minimum_memory};
use crate::build::plan::Plan;
use crate::build::select::Need;
use crate::common::files::base_name;
use crate::common::ui::{Ui, megabytes};
use crate::pins::branches::{Month, Support};
use image::manifest::{Kind, Manifest, Payload, Purpose};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::time::Duration;

/// The result of a build.
#[derive(Debug, Serialize)]
pub struct BuildReport {
    initrd: String,
    initrd_bytes: u64,
    initrd_sha256: String,
    unpacked_bytes: u64,
    minimum_memory_mib: u64,
    kernel: String,
    kernel_release: String,
    lock: String,
    driver: String,
    /// Told by the driver's own files: `12.4`.
    cuda: Option<String>,
    capabilities: Vec<String>,
    modules: Vec<String>,
    firmware: Vec<String>,
    libraries_and_programs: Vec<String>,
    needs: Vec<Need>,
    notes: Vec<String>,
    compression: String,
    payload: Carried,
    gpus: Vec<String>,
    recommended_cmdline: &'static str,
    total_seconds: f64,
    seconds: BTreeMap<String, f64>,
}

/// How the driver's files are carried.
#[derive(Debug, Serialize)]
struct Carried {
    /// `files`, `image` or `disk`.
    mode: String,
    /// Why.
    why: String,
    /// The disk, when there is one.
    disk: Option<String>,
    /// Bytes of the EROFS image.
    bytes: u64,
    /// UUID of it.
    uuid: Option<String>,
}

impl Carried {
    fn of(manifest: &Manifest, args: &BuildInitrd, why: &str) -> Self {
        let (mode, erofs) = match &manifest.payload {
            Payload::Files => (Mode::Files, None),
            Payload::Image { erofs, .. } => (Mode::Image, Some(erofs)),
            Payload::Disk { erofs, .. } => (Mode::Disk, Some(erofs)),
        };
        Self {
            mode: mode.to_string(),
            why: why.into(),
            disk: (mode == Mode::Disk).then(|| args.payload_output.display().to_string()),
            bytes: erofs.map_or(0, |erofs| erofs.size),
            uuid: erofs.map(|erofs| erofs.uuid.clone()),
        }
    }
}

/// Kernel parameters that a guest with this initrd should have. ramfs instead of tmpfs: no limit of
/// half the memory.
pub const RECOMMENDED_CMDLINE: &str = "rootfstype=ramfs";

impl BuildReport {
    /// Collects the figures of a finished build. `why`: the reason for the way that the payload is
    /// carried.
    pub fn new(plan: &Plan, args: &BuildInitrd, packed: &Packed, why: &str, ui: &Ui) -> Self {
        let manifest = &plan.manifest;
        let driver = manifest.driver.as_ref();
        Self {
            initrd: args.output.display().to_string(),
            initrd_bytes: packed.bytes,
            initrd_sha256: packed.sha256.clone(),
            unpacked_bytes: manifest.unpacked_bytes(),
            minimum_memory_mib: minimum_memory(manifest, packed.bytes).div_ceil(1 << 20),
            kernel: args.kernel_output.display().to_string(),
            kernel_release: manifest.kernel_release.clone(),
            lock: args.lock.display().to_string(),
            driver: driver.map(|driver| driver.version.clone()).unwrap_or_default(),
            cuda: driver.and_then(|driver| driver.cuda.clone()),
            capabilities: manifest.capabilities.clone(),
            modules: manifest.modules.iter().map(|module| module.name.clone()).collect(),
            firmware: driver.map(|driver| driver.firmware.clone()).unwrap_or_default(),
            libraries_and_programs: driver_files(manifest),
            needs: plan.needs.clone(),
            notes: driver
                .and_then(|driver| unsupported(&driver.version))
                .into_iter()
                .chain(plan.notes.clone())
                .collect(),
            compression: args.compression.to_string(),
            payload: Carried::of(manifest, args, why),
            gpus: driver.map(|driver| driver.gpus.clone()).unwrap_or_default(),
            recommended_cmdline: RECOMMENDED_CMDLINE,
            total_seconds: seconds(ui.elapsed()),
            seconds: ui.stages().into_iter().map(|(name, took)| (name, seconds(took))).collect(),
        }
    }

    /// As JSON.
    pub fn json(&self) -> String {
        serde_json::to_string_pretty(self).expect("a report holds nothing that JSON cannot")
    }
}

/// The warning about a driver that NVIDIA does not support, and what to do.
fn unsupported(driver: &str) -> Option<String> {
    let now = Month::now();
    let warning = Support::of(driver, now).warning(driver, now)?;
    Some(format!("{warning}: build-initrd --driver 580 --update-lock"))
}

fn seconds(time: Duration) -> f64 {
    (time.as_secs_f64() * 100.0).round() / 100.0
}

fn driver_files(manifest: &Manifest) -> Vec<String> {
    let of_containers = manifest.files.iter().filter(|entry| !entry.capabilities.is_empty());
    let mut files: Vec<_> = of_containers.map(|entry| base_name(&entry.path).to_owned()).collect();
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

impl BuildReport {
    /// For people: what is in the image, and last the lines that are needed next. Long lists are
    /// summed up unless `is_verbose`.
    pub fn text(&self, is_verbose: bool) -> String {
        let mut rows = self.content(is_verbose);
        rows.extend(self.key_lines());
        let mut text = String::new();
        for (name, value) in rows {
            let _ = writeln!(text, "{name:<9} {value}");
        }
        text
    }

    fn content(&self, is_verbose: bool) -> Vec<(&'static str, String)> {
        let listed = |names: &[String]| if is_verbose { names.join(" ") } else { summed_up(names) };
        let cuda = self.cuda.as_ref().map(|cuda| format!(", CUDA {cuda}")).unwrap_or_default();
        let gpus = match (&self.gpus[..], is_verbose) {
            ([], _) => "all GPUs".to_owned(),
            (gpus, true) => gpus.join(", "),
            (gpus, false) => summed_up(gpus),
        };
        let hint = if is_verbose { "" } else { "  (--verbose lists them all)" };
        let mut rows = vec![
            ("driver", format!("{}{cuda}  for {}", self.driver, self.capabilities.join(", "))),
            ("payload", format!("{}: {}", self.payload.mode, self.payload.why)),
            ("files", format!("{}{hint}", listed(&self.libraries_and_programs))),
            ("modules", listed(&self.modules)),
            ("firmware", format!("{}  for {gpus}", listed(&self.firmware))),
        ];
        if !self.needs.is_empty() {
            rows.push(("needs", format!("from the container: {}", needs_text(&self.needs))));
        }
        rows.extend(self.notes.iter().map(|note| ("note", note.clone())));
        let stages = self.seconds.iter().filter(|(_, took)| **took >= 0.05);
        let stages: Vec<_> = stages.map(|(name, took)| format!("{name} {took:.1} s")).collect();
        rows.push(("time", format!("{:.1} s: {}", self.total_seconds, stages.join(", "))));
        rows
    }

    fn key_lines(&self) -> Vec<(&'static str, String)> {
        let mut rows = vec![
            ("lock", self.lock.clone()),
            ("kernel", format!("{}  {}", self.kernel, self.kernel_release)),
        ];
        if let Some(disk) = &self.payload.disk {
            let size = megabytes(self.payload.bytes);
            rows.push(("disk", format!("{disk}  {size}  attach it to guests read-only")));
        }
        let memory = format!(
            "unpacks to {}; a guest needs at least {} MiB, with {} on its kernel command line",
            megabytes(self.unpacked_bytes),
            self.minimum_memory_mib,
            self.recommended_cmdline
        );
        rows.push(("memory", memory));
        rows.push(("initrd", format!("{}  {}", self.initrd, megabytes(self.initrd_bytes))));
        rows.push(("sha256", self.initrd_sha256.clone()));
        rows
    }
}

/// The first of a list, and the number of the others: `libcuda.so.1 +17`.
fn summed_up(names: &[String]) -> String {
    match names {
        [first, _, ..] => format!("{first} +{}", names.len() - 1),
        few => few.join(" "),
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
