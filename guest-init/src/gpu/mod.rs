//! From PCI devices to usable GPUs: count, modules, nodes, versions, adapters.

pub mod adapter;
pub mod evidence;
pub mod nodes;
pub mod pci;
pub mod procfs;
pub mod requirements;
pub mod visible;

use crate::kmsg::KernelLog;
use crate::modules;
use crate::report::{self, Board, with_evidence};
use image::config::{Config, ExpectedGpus};
use image::manifest::Manifest;
use image::status::{Code, Finding, Gpu, GpuState, Severity};
use pci::PciGpu;
use procfs::{Information, Proc};
use std::fs;
use std::io;
use std::path::Path;

/// Finds the GPUs on the bus and puts them on the board; nothing is loaded yet.
pub fn find(config: &Config, board: &Board) -> Vec<PciGpu> {
    let found = match pci::scan() {
        Ok(found) => found,
        Err(error) => {
            board.finding(report::error(
                Code::Internal,
                format!("the PCI bus could not be read: {error}"),
                "this is a defect of the guest's kernel or of guest-init",
            ));
            Vec::new()
        }
    };
    let gpu =
        |gpu: &PciGpu| Gpu { bdf: gpu.bdf.clone(), vendor: gpu.vendor, device: gpu.device, ..Gpu::default() };
    board.update(|status| {
        status.gpus_expected = config.gpus.text();
        status.gpus = found.iter().map(gpu).collect();
    });
    if let Some(finding) = compare(&config.gpus, &found) {
        board.finding(finding);
    }
    found
}

/// What was promised against what is there.
fn compare(expected: &ExpectedGpus, found: &[PciGpu]) -> Option<Finding> {
    let list = found.iter().map(|gpu| format!("{} {:04x}:{:04x}", gpu.bdf, gpu.vendor, gpu.device));
    let list: Vec<String> = list.collect();
    let expected = match expected {
        ExpectedGpus::Count(0) if found.is_empty() => return None,
        _ if found.is_empty() => {
            let promise =
                expected.text().map_or("HAS_GPU=1".into(), |text| format!("gpu_initrd.gpus={text}"));
            return Some(report::error(
                Code::NoGpu,
                format!("{promise} promises a GPU, and no NVIDIA GPU is on the PCI bus"),
                "pass the GPU through: bind it to vfio-pci on the host and give it to the VMM (host-builder boot --vfio BDF)",
            ));
        }
        ExpectedGpus::Any => return None,
        ExpectedGpus::Count(count) if *count as usize == found.len() => return None,
        ExpectedGpus::Count(1) => "1 GPU".into(),
        ExpectedGpus::Count(count) => format!("{count} GPUs"),
        ExpectedGpus::Ids(ids) => {
            let mut wanted = ids.clone();
            let mut have: Vec<_> = found.iter().map(|gpu| (gpu.vendor, gpu.device)).collect();
            wanted.sort_unstable();
            have.sort_unstable();
            if wanted == have {
                return None;
            }
            expected.text().unwrap_or_default()
        }
    };
    let message =
        format!("the host promised {expected}, the PCI bus has {}: {}", found.len(), list.join(", "));
    let hint = "compare gpu_initrd.gpus with the devices the VMM was given";
    Some(with_evidence(report::error(Code::GpuCountMismatch, message, hint), list))
}

/// Loads the driver, makes the nodes, opens every GPU. Returns whether every GPU on the bus is usable.
///
/// # Errors
/// The finding that made it stop before there was a driver; later failures are on the board.
pub fn bring_up(
    manifest: &Manifest,
    config: &Config,
    found: &[PciGpu],
    board: &Board,
) -> Result<bool, Finding> {
    let mut log = KernelLog::here();
    let loaded = modules::load_driver(manifest, &config.module_parameters, board);
    let lines = log.lines();
    let proc = Proc::default();
    let mut good = match loaded {
        // "No device" with devices on the bus means that the driver took none of them.
        Err(finding) if finding.code != Code::NoGpu => {
            for gpu in found {
                board.gpu(&gpu.bdf, |status| status.state = GpuState::Failed);
            }
            return Err(finding);
        }
        Err(_) => {
            note_bound(&proc, found, &lines, board);
            return Ok(false);
        }
        Ok(all) => all,
    };
    let bound = note_bound(&proc, found, &lines, board);
    let minors: Vec<_> = bound.iter().map(|(_, minor)| *minor).collect();
    check_version(manifest, board)?;
    for finding in
        [uvm_missing(manifest, &proc), fabric_not_ready(config, pci::switches())].into_iter().flatten()
    {
        good &= finding.severity != Severity::Error;
        board.finding(finding);
    }
    good &= make_nodes(&proc, &minors, board);
    good &= adapter::open_all(&bound, config.gpu_timeout, board);
    // MIG and other capabilities appear when an adapter is up.
    good &= make_nodes(&proc, &minors, board);
    Ok(good && bound.len() == found.len())
}

/// CUDA does nothing without nvidia-uvm, whatever else there is.
fn uvm_missing(manifest: &Manifest, proc: &Proc) -> Option<Finding> {
    let is_needed = manifest.capabilities.iter().any(|name| name == "compute");
    if !is_needed || !matches!(proc.major("nvidia-uvm"), Ok(None)) {
        return None;
    }
    let message = "nvidia-uvm is not in /proc/devices: CUDA cannot start (error 3 or 999)";
    let hint = "build the initrd again with the module nvidia-uvm; if it was there, the other findings say why it did not load";
    Some(report::error(Code::UvmMissing, message, hint))
}

/// NVSwitches need a fabric manager, and an initrd carries none.
fn fabric_not_ready(config: &Config, switches: io::Result<Vec<PciGpu>>) -> Option<Finding> {
    let switches = switches.ok().filter(|switches| !switches.is_empty())?;
    let mut parameters = config.module_parameters.get("nvidia").into_iter().flatten();
    // Each GPU by itself needs no fabric.
    if parameters.any(|setting| setting == "NVreg_NvLinkDisable=1") {
        return None;
    }
    let message = format!(
        "this guest has NVSwitches ({}), and does not run a fabric manager: unless the container does, CUDA fails with error 802 (system not yet initialized)",
        switches.len()
    );
    let hint = "run NVIDIA's fabric manager of the driver's version: on the host, with the switches kept there, or in the container; or cut single GPUs off with nvidia.NVreg_NvLinkDisable=1";
    let list =
        switches.iter().map(|switch| format!("{} {:04x}:{:04x}", switch.bdf, switch.vendor, switch.device));
    Some(with_evidence(report::warning(Code::FabricNotReady, message, hint), list.collect()))
}

/// Which GPUs the driver took, by address and minor; why not the others, in its own words.
///
/// Each GPU's minor is read here, once: while an adapter initialises, the driver blocks every reader of these files.
fn note_bound(proc: &Proc, found: &[PciGpu], log: &[String], board: &Board) -> Vec<(String, u32)> {
    let taken = proc.bound();
    let mut bound = Vec::new();
    for gpu in found {
        if taken.contains(&gpu.bdf) {
            let information = proc.information(&gpu.bdf).unwrap_or_else(|error| {
                let message = format!("/proc of the driver could not be read for GPU {}: {error}", gpu.bdf);
                let hint = "the guest's kernel log says what became of the driver";
                board.finding(report::error(Code::NodeFailed, message, hint));
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
        let evidence = evidence::about(log, &gpu.bdf);
        let finding = evidence::not_taken(gpu, &evidence);
        let unsupported = finding.code == Code::GpuUnsupported;
        board.gpu(&gpu.bdf, |status| {
            status.state = if unsupported { GpuState::Unsupported } else { GpuState::Failed };
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
    Err(report::error(
        Code::ModuleVersionMismatch,
        format!("the loaded driver has version {loaded}, the initrd's libraries are of {planned}"),
        "modules and libraries must carry one version, to the last digit: build the initrd again",
    ))
}

fn make_nodes(proc: &Proc, minors: &[u32], board: &Board) -> bool {
    let failed = |message: String| {
        let hint = "another file may be in its place, or /dev may be full or read-only";
        board.finding(report::error(Code::NodeFailed, message, hint));
    };
    let wanted = match nodes::wanted(proc, minors, modules::is_loaded("nvidia_modeset")) {
        Ok(wanted) => wanted,
        Err(error) => {
            failed(format!("/proc of the driver could not be read: {error}"));
            return false;
        }
    };
    let mut made = Vec::new();
    let mut good = true;
    for node in wanted {
        match nodes::make(Path::new("/"), &node) {
            Ok(conflict) => {
                if let Some(what) = conflict {
                    let message = format!("{} was {what}; it has been replaced", node.path);
                    let hint = "find out what made it: another driver in the guest's kernel may want that name, and will not have it now";
                    board.finding(report::warning(Code::NodeConflict, message, hint));
                }
                made.push(node);
            }
            Err(error) => {
                failed(error.to_string());
                good = false;
            }
        }
    }
    board.update(|status| status.nodes = made);
    good
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(devices: &[u16]) -> Vec<PciGpu> {
        let gpu = |(n, device): (usize, &u16)| PciGpu {
            bdf: format!("0000:0{n}:00.0"),
            vendor: 0x10de,
            device: *device,
        };
        devices.iter().enumerate().map(gpu).collect()
    }

    #[test]
    fn none_is_never_silence() {
        assert_eq!(compare(&ExpectedGpus::Any, &[]).unwrap().code, Code::NoGpu);
        assert_eq!(compare(&ExpectedGpus::Count(2), &[]).unwrap().code, Code::NoGpu);
        assert_eq!(compare(&ExpectedGpus::Count(0), &[]), None);
        let unwanted = compare(&ExpectedGpus::Count(0), &found(&[0x2330])).unwrap();
        assert_eq!(unwanted.code, Code::GpuCountMismatch);
        assert!(unwanted.message.contains("promised 0 GPUs"), "{}", unwanted.message);
    }

    #[test]
    fn fewer_more_or_others_is_a_mismatch_and_order_does_not_matter() {
        let two = found(&[0x2330, 0x27b8]);
        assert_eq!(compare(&ExpectedGpus::Any, &two), None);
        assert_eq!(compare(&ExpectedGpus::Count(2), &two), None);
        let finding = compare(&ExpectedGpus::Count(3), &two).unwrap();
        assert_eq!(finding.code, Code::GpuCountMismatch);
        assert!(finding.message.contains("promised 3 GPUs") && finding.message.contains("10de:27b8"));
        assert_eq!(compare(&ExpectedGpus::Ids(vec![(0x10de, 0x27b8), (0x10de, 0x2330)]), &two), None);
        assert!(compare(&ExpectedGpus::Ids(vec![(0x10de, 0x27b8)]), &two).is_some());
    }

    #[test]
    fn switches_without_a_fabric_manager_are_a_warning() {
        let mut config = Config::default();
        assert_eq!(fabric_not_ready(&config, Ok(vec![])), None);
        let finding = fabric_not_ready(&config, Ok(found(&[0x22a3]))).unwrap();
        assert_eq!((finding.code, finding.severity), (Code::FabricNotReady, Severity::Warning));
        assert_eq!(finding.evidence, ["0000:00:00.0 10de:22a3"]);
        config.module_parameters.insert("nvidia".into(), vec!["NVreg_NvLinkDisable=1".into()]);
        assert_eq!(fabric_not_ready(&config, Ok(found(&[0x22a3]))), None);
    }
}
