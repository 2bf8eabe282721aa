//! From PCI devices to usable GPUs: count, modules, nodes, versions, adapters.

pub mod adapter;
pub mod container_env;
pub mod driver_log;
pub mod nodes;
pub mod pci;
pub mod procfs;
pub mod requirements;

use crate::kernel::kmsg_writer::KernelLog;
use crate::kernel::modules::{self, LoadError};
use crate::status;
use crate::status::{Board, with_evidence};
use image::config::{Config, ExpectedGpus};
use image::manifest::Manifest;
use image::status::{Code, Finding, Gpu, GpuState, Node, Phase};
use pci::PciGpu;
use procfs::{Information, Proc};
use std::fs;
use std::io;
use std::path::Path;

/// What a boot knows about its GPUs after the driver was loaded.
#[derive(Debug, Default)]
pub struct GpuFacts {
    /// The GPUs bound to the driver: address, minor and, if initialised, UUID.
    pub gpus: Vec<Gpu>,
    /// The driver's device nodes.
    pub nodes: Vec<Node>,
    /// Whether every GPU on the bus can be used.
    pub usable: bool,
}

/// Adds the GPUs on the bus to the status board, before modules are loaded.
pub fn announce(expected: &ExpectedGpus, found: &[PciGpu], board: &Board) {
    let gpu =
        |gpu: &PciGpu| Gpu { bdf: gpu.bdf.clone(), vendor: gpu.vendor, device: gpu.device, ..Gpu::default() };
    board.update(|status| {
        status.gpus_expected = expected.text();
        status.gpus = found.iter().map(gpu).collect();
    });
}

/// Loads the driver, creates the nodes and opens every GPU.
///
/// # Errors
/// The finding for a failure before the driver was usable; later failures are on the board.
pub fn bring_up(
    manifest: &Manifest,
    config: &Config,
    found: &[PciGpu],
    board: &Board,
) -> Result<GpuFacts, Finding> {
    let mut log = KernelLog::here();
    let progress = |done, all| board.progress(Phase::Gpu, done, all);
    let loaded = modules::load_driver(manifest, &config.module_parameters, progress);
    let lines = log.lines();
    let proc = Proc::default();
    let mut good = match loaded {
        // There are devices on the bus, so the driver bound none of them.
        Err(LoadError::NoDevice { .. }) => {
            note_bound(&proc, found, &lines, board);
            return Ok(GpuFacts::default());
        }
        Err(error) => {
            for gpu in found {
                board.gpu(&gpu.bdf, |status| status.state = GpuState::Failed);
            }
            return Err(error.into());
        }
        Ok(failed) => {
            let all = failed.is_empty();
            for error in failed {
                board.report(error);
            }
            all
        }
    };
    let bound = note_bound(&proc, found, &lines, board);
    let minors: Vec<_> = bound.iter().map(|(_, minor)| *minor).collect();
    check_version(manifest, board)?;
    if let Some(finding) = uvm_missing(manifest, &proc) {
        good = false;
        board.finding(finding);
    }
    if let Some(finding) = fabric_not_ready(config, pci::switches()) {
        board.finding(finding);
    }
    good &= make_nodes(&proc, &minors, board).1;
    let (opened, came_up) = adapter::open_all(&bound, config.gpu_timeout, board);
    // MIG and other capabilities appear when an adapter is initialised.
    let (nodes, made) = make_nodes(&proc, &minors, board);
    let gpu = |(bdf, minor): (String, u32)| {
        let uuid = opened.get(&bdf).and_then(|information| information.uuid.clone());
        Gpu { minor: Some(minor), uuid, bdf, ..Gpu::default() }
    };
    let usable = good && came_up && made && bound.len() == found.len();
    Ok(GpuFacts { gpus: bound.into_iter().map(gpu).collect(), nodes, usable })
}

/// Returns a finding if nvidia-uvm, which CUDA requires, is missing.
fn uvm_missing(manifest: &Manifest, proc: &Proc) -> Option<Finding> {
    let is_needed = manifest.capabilities.iter().any(|name| name == "compute");
    if !is_needed || !matches!(proc.major("nvidia-uvm"), Ok(None)) {
        return None;
    }
    let message = "nvidia-uvm is not in /proc/devices: CUDA cannot start (error 3 or 999)";
    let hint = "rebuild the initrd with the nvidia-uvm module; if the initrd has it, the other findings say why it did not load";
    Some(status::error(Code::UvmMissing, message, hint))
}

/// Returns a finding if there are NVSwitches, which require a fabric manager; an initrd contains none.
fn fabric_not_ready(config: &Config, switches: io::Result<Vec<PciGpu>>) -> Option<Finding> {
    let switches = switches.ok().filter(|switches| !switches.is_empty())?;
    let mut parameters = config.module_parameters.get("nvidia").into_iter().flatten();
    // Without NVLink, GPUs need no fabric.
    if parameters.any(|setting| setting == "NVreg_NvLinkDisable=1") {
        return None;
    }
    let message = format!(
        "this guest has {} NVSwitches but runs no fabric manager: unless the container runs one, CUDA fails with error 802 (system not yet initialized)",
        switches.len()
    );
    let hint = "run NVIDIA's fabric manager, in the driver's version, either on the host, with the switches kept there, or in the container; to use each GPU without the fabric, set nvidia.NVreg_NvLinkDisable=1";
    let list = switches.iter().map(PciGpu::to_string).collect();
    Some(with_evidence(status::warning(Code::FabricNotReady, message, hint), list))
}

/// Returns the bound GPUs, by address and minor, and reports for the others why the driver did not bind them.
///
/// Each GPU's minor is read here, once: while an adapter initialises, the driver blocks every reader of these files.
fn note_bound(proc: &Proc, found: &[PciGpu], log: &[String], board: &Board) -> Vec<(String, u32)> {
    let taken = proc.bound();
    let mut bound = Vec::new();
    for gpu in found {
        if taken.contains(&gpu.bdf) {
            let information = proc.information(&gpu.bdf).unwrap_or_else(|error| {
                let message = format!("cannot read the driver's /proc files for GPU {}: {error}", gpu.bdf);
                let hint = "read the guest's kernel log for the state of the driver";
                board.finding(status::error(Code::NodeFailed, message, hint));
                Information::default()
            });
            bound.extend(information.minor.map(|minor| (gpu.bdf.clone(), minor)));
            board.gpu(&gpu.bdf, |status| {
                status.state = GpuState::Bound;
                status.model = information.model;
                status.minor = information.minor;
            });
            continue;
        }
        let evidence = driver_log::about(log, &gpu.bdf);
        let (state, finding) = driver_log::not_taken(gpu, &evidence);
        board.gpu(&gpu.bdf, |status| {
            status.state = state;
            status.evidence.clone_from(&evidence);
        });
        board.finding(finding);
    }
    bound
}

fn check_version(manifest: &Manifest, board: &Board) -> Result<(), Finding> {
    let Some(planned) = manifest.driver.as_ref().map(|driver| driver.version.as_str()) else { return Ok(()) };
    let loaded = fs::read_to_string("/sys/module/nvidia/version").map(|text| text.trim().to_owned());
    let loaded = loaded.unwrap_or_else(|error| format!("unreadable ({error})"));
    board.update(|status| status.driver_loaded = Some(loaded.clone()));
    if loaded == planned {
        return Ok(());
    }
    Err(status::error(
        Code::ModuleVersionMismatch,
        format!("the loaded driver has version {loaded}, but the initrd's libraries have version {planned}"),
        "rebuild the initrd: modules and libraries must have exactly the same version",
    ))
}

/// Creates the driver's nodes. Returns the existing nodes, and whether all could be created.
fn make_nodes(proc: &Proc, minors: &[u32], board: &Board) -> (Vec<Node>, bool) {
    let failed = |message: String| {
        let hint = "check the path: another file may be in its place, or /dev may be full or read-only";
        board.finding(status::error(Code::NodeFailed, message, hint));
    };
    let wanted = match nodes::wanted(proc, minors, modules::is_loaded("nvidia_modeset")) {
        Ok(wanted) => wanted,
        Err(error) => {
            failed(format!("cannot read the driver's /proc files: {error}"));
            return (Vec::new(), false);
        }
    };
    let mut made = Vec::new();
    let mut good = true;
    for node in wanted {
        match nodes::make(Path::new("/"), &node) {
            Ok(conflict) => {
                if let Some(what) = conflict {
                    let message = format!("{} was {what}, which has been replaced", node.path);
                    let hint =
                        "find out what created it: another driver in the guest's kernel may need that name";
                    board.finding(status::warning(Code::NodeConflict, message, hint));
                }
                made.push(node);
            }
            Err(error) => {
                failed(error.to_string());
                good = false;
            }
        }
    }
    board.update(|status| status.nodes.clone_from(&made));
    (made, good)
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::status::Severity;

    #[test]
    fn switches_without_a_fabric_manager_are_a_warning() {
        let mut config = Config::default();
        assert_eq!(fabric_not_ready(&config, Ok(vec![])), None);
        let finding = fabric_not_ready(&config, Ok(PciGpu::of_ids(&[0x22a3]))).unwrap();
        assert_eq!((finding.code, finding.severity), (Code::FabricNotReady, Severity::Warning));
        assert_eq!(finding.evidence, ["0000:00:00.0 10de:22a3"]);
        config.module_parameters.insert("nvidia".into(), vec!["NVreg_NvLinkDisable=1".into()]);
        assert_eq!(fabric_not_ready(&config, Ok(PciGpu::of_ids(&[0x22a3]))), None);
    }
}
