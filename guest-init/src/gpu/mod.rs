//! From PCI devices to usable GPUs: count, modules, nodes, versions, adapters.

pub mod adapter;
pub mod container_env;
pub mod driver_log;
pub mod error;
pub mod nodes;
pub mod pci;
pub mod procfs;
pub mod requirements;

use crate::kernel::beside::beside;
use crate::kernel::bounded::{TimedOut, bounded};
use crate::kernel::kmsg_writer::KernelLog;
use crate::kernel::modules::{self, DriverModules, LoadError};
use crate::kernel::priority;
use crate::kernel::sysinfo::uptime_ms;
use crate::status::Board;
use error::GpuError;
use image::capability::Capability;
use image::config::{Config, ExpectedGpus};
use image::manifest::Manifest;
use image::requirement::branch;
use image::status::{Gpu, GpuState, Node, Phase};
use pci::PciGpu;
use procfs::{Information, Proc};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

/// The driver's modules for monitors and for drawing to them.
const FOR_DRAWING: [&str; 2] = ["nvidia_modeset", "nvidia_drm"];

/// The first branch that initialises adapters while its module is loaded.
const ON_PROBE_SINCE: u32 = 615;

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

/// Loads the driver, creates the nodes and opens every GPU. The driver's other modules, those that the capabilities of the container
/// need, are loaded while the adapters initialise. `opening` is called before that: there is time from then on.
///
/// # Errors
/// The failure before the driver was usable; later failures are on the board.
pub fn bring_up(
    manifest: &Manifest,
    config: &Config,
    capabilities: &BTreeSet<Capability>,
    found: &[PciGpu],
    board: &Board,
    opening: impl Fn(),
) -> Result<GpuFacts, GpuError> {
    let modules =
        DriverModules::of(manifest, &config.module_parameters, |module| is_needed(module, capabilities));
    let proc = Proc::default();
    let mut adapters = Duration::ZERO;
    let version = manifest.driver.as_ref().map(|driver| driver.version.as_str());
    if initialises_on_probe(version.unwrap_or_default(), config) {
        adapters = config.gpu_timeout.saturating_mul(u32::try_from(found.len()).unwrap_or(u32::MAX));
        say_initialising(found, adapters, board);
    }
    let loaded = priority::sooner(|| load_driver(&modules, adapters, &proc, found, board))?;
    let Some(Loaded { bound, said }) = loaded else { return Ok(GpuFacts::default()) };
    let minors: Vec<_> = bound.iter().map(|(_, minor)| *minor).collect();
    check_version(manifest, board)?;
    if let Some(switches) = switches_without_manager(config, pci::switches()) {
        board.report(GpuError::NoFabricManager { switches });
    }
    let (_, can_be_opened) = make_nodes(&proc, &minors, board);
    opening();
    let load_rest = || {
        let failed = modules.load_rest();
        let all = failed.is_empty();
        for error in failed {
            board.report(error);
        }
        all
    };
    let ((opened, came_up), complete) =
        beside("modules", load_rest, || adapter::open_all(&bound, said, config.gpu_timeout, board));
    let uvm_missing = is_uvm_missing(manifest, &proc);
    if uvm_missing {
        board.report(GpuError::UvmMissing);
    }
    // With the nodes of the other modules, and of MIG and other capabilities, which appear when an adapter is initialised.
    let (nodes, made) = make_nodes(&proc, &minors, board);
    let gpu = |(bdf, minor): (String, u32)| {
        let uuid = opened.get(&bdf).and_then(|information| information.uuid.clone());
        Gpu { minor: Some(minor), uuid, bdf, ..Gpu::default() }
    };
    let usable = complete && !uvm_missing && can_be_opened && came_up && made && bound.len() == found.len();
    Ok(GpuFacts { gpus: bound.into_iter().map(gpu).collect(), nodes, usable })
}

/// Returns whether a container with these capabilities needs a module of the driver for itself.
fn is_needed(module: &str, capabilities: &BTreeSet<Capability>) -> bool {
    let draws = [Capability::Graphics, Capability::Display].iter().any(|asked| capabilities.contains(asked));
    draws || !FOR_DRAWING.contains(&module)
}

/// Whether the driver initialises the adapters while its module is loaded: since branch 615, unless a parameter says otherwise.
fn initialises_on_probe(driver: &str, config: &Config) -> bool {
    let parameters = config.module_parameters.get("nvidia").into_iter().flatten();
    let said = parameters.filter_map(|setting| setting.strip_prefix("NVreg_GpuInitOnProbe=")).next_back();
    said.map_or(branch(driver) >= Some(ON_PROBE_SINCE), |value| value != "0")
}

/// Shows that the adapters are being initialised, by the module that is loaded.
fn say_initialising(found: &[PciGpu], adapters: Duration, board: &Board) {
    for gpu in found {
        board.gpu(&gpu.bdf, |status| {
            status.state = GpuState::Initialising;
            status.init_start_ms = Some(uptime_ms());
            let limit = adapters.as_secs();
            status.waits_for = Some(format!(
                "the module nvidia, which initialises all GPUs, at most {limit} s more than other modules"
            ));
        });
    }
}

/// What came of loading the driver.
struct Loaded {
    /// The GPUs that it has bound, by address and minor.
    bound: Vec<(String, u32)>,
    /// What it said about adapters that it has initialised meanwhile.
    said: Vec<String>,
}

/// Loads the driver itself. `adapters` is the time that the adapters may take; `None`: it has bound no GPU.
fn load_driver(
    modules: &DriverModules,
    adapters: Duration,
    proc: &Proc,
    found: &[PciGpu],
    board: &Board,
) -> Result<Option<Loaded>, GpuError> {
    let log = KernelLog::here();
    let loaded = modules.load_driver(adapters, |done, all| board.progress(Phase::Gpu, done, all));
    for gpu in found {
        board.gpu(&gpu.bdf, |status| status.waits_for = None);
    }
    match loaded {
        Ok(()) => {
            let mut said = log.lines();
            let bound = note_bound(proc, found, &said, board);
            if !driver_log::initialised_on_probe(&said) {
                said.clear();
            }
            Ok(Some(Loaded { bound, said }))
        }
        // There are devices on the bus, so the driver bound none of them.
        Err(LoadError::NoDevice { .. }) => {
            note_bound(proc, found, &log.lines(), board);
            Ok(None)
        }
        Err(error) => {
            for gpu in found {
                board.gpu(&gpu.bdf, |status| status.state = GpuState::Failed);
            }
            Err(error.into())
        }
    }
}

/// Returns whether nvidia-uvm, which CUDA requires, is missing.
fn is_uvm_missing(manifest: &Manifest, proc: &Proc) -> bool {
    let is_needed = manifest.capabilities.iter().any(|name| name == "compute");
    is_needed && matches!(proc.major("nvidia-uvm"), Ok(None))
}

/// Returns the NVSwitches, which require a fabric manager, unless NVLink is disabled.
fn switches_without_manager(config: &Config, switches: io::Result<Vec<PciGpu>>) -> Option<Vec<PciGpu>> {
    let switches = switches.ok().filter(|switches| !switches.is_empty())?;
    let mut parameters = config.module_parameters.get("nvidia").into_iter().flatten();
    // Without NVLink, GPUs need no fabric.
    (!parameters.any(|setting| setting == "NVreg_NvLinkDisable=1")).then_some(switches)
}

/// Returns the bound GPUs, by address and minor, and reports for the others why the driver did not bind them.
///
/// Each GPU's minor is read here, once: while an adapter initialises, the driver blocks every reader of these files.
fn note_bound(proc: &Proc, found: &[PciGpu], log: &[String], board: &Board) -> Vec<(String, u32)> {
    let mut taken = match read_bound(proc) {
        Ok(taken) => taken,
        Err(error) => {
            for gpu in found {
                board.gpu(&gpu.bdf, |status| status.state = GpuState::Failed);
            }
            board.report(GpuError::Proc { of: String::new(), source: error.into() });
            return Vec::new();
        }
    };
    let mut bound = Vec::new();
    for gpu in found {
        if let Some(information) = taken.remove(&gpu.bdf) {
            let information = information.unwrap_or_else(|source| {
                board.report(GpuError::Proc { of: format!(" for GPU {}", gpu.bdf), source });
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
        let log = driver_log::about(log, &gpu.bdf);
        let why = driver_log::not_bound(&log);
        board.gpu(&gpu.bdf, |status| {
            status.state = if why.is_unsupported() { GpuState::Unsupported } else { GpuState::Failed };
            status.evidence.clone_from(&log);
        });
        board.report(GpuError::NotBound { gpu: gpu.clone(), why, log });
    }
    bound
}

/// Reads the driver's information about each GPU that it has bound, by address. The driver may block the readers for ever.
fn read_bound(proc: &Proc) -> Result<BTreeMap<String, io::Result<Information>>, TimedOut> {
    let proc = proc.clone();
    bounded("reading the driver's list of GPUs".into(), move || {
        let bound = proc.bound().into_iter();
        bound.map(|bdf| (bdf.clone(), proc.information(&bdf))).collect()
    })
}

fn check_version(manifest: &Manifest, board: &Board) -> Result<(), GpuError> {
    let Some(planned) = manifest.driver.as_ref().map(|driver| driver.version.as_str()) else { return Ok(()) };
    let loaded = fs::read_to_string("/sys/module/nvidia/version").map(|text| text.trim().to_owned());
    let loaded = loaded.unwrap_or_else(|error| format!("unreadable ({error})"));
    board.update(|status| status.driver_loaded = Some(loaded.clone()));
    if loaded == planned {
        return Ok(());
    }
    Err(GpuError::VersionMismatch { loaded, planned: planned.to_owned() })
}

/// Reads which nodes the driver needs.
fn read_nodes(proc: &Proc, minors: &[u32]) -> io::Result<Vec<Node>> {
    let (proc, minors) = (proc.clone(), minors.to_vec());
    bounded("reading the driver's parameters and capabilities".into(), move || {
        nodes::wanted(&proc, &minors, modules::is_loaded("nvidia_modeset"))
    })?
}

/// Creates the driver's nodes. Returns the existing nodes, and whether all could be created.
fn make_nodes(proc: &Proc, minors: &[u32], board: &Board) -> (Vec<Node>, bool) {
    let wanted = match read_nodes(proc, minors) {
        Ok(wanted) => wanted,
        Err(source) => {
            board.report(GpuError::Proc { of: String::new(), source });
            return (Vec::new(), false);
        }
    };
    let mut made = Vec::new();
    let mut good = true;
    for node in wanted {
        match nodes::make(Path::new("/"), &node) {
            Ok(conflict) => {
                if let Some(what) = conflict {
                    board.report(GpuError::NodeReplaced { path: node.path.clone(), what });
                }
                made.push(node);
            }
            Err(error) => {
                board.report(GpuError::Node(error));
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
    use image::status::{Code, Finding, Severity};

    #[test]
    fn adapters_are_initialised_on_probe_since_a_branch_or_as_told() {
        let is_so = |version: &str, setting: Option<&str>| {
            let mut config = Config::default();
            config
                .module_parameters
                .insert("nvidia".into(), setting.map(str::to_owned).into_iter().collect());
            initialises_on_probe(version, &config)
        };
        assert_eq!((is_so("595.91.07", None), is_so("615.71.09", None)), (false, true));
        assert!(is_so("595.91.07", Some("NVreg_GpuInitOnProbe=1")));
        assert!(!is_so("615.71.09", Some("NVreg_GpuInitOnProbe=0")));
    }

    #[test]
    fn switches_without_a_fabric_manager_are_a_warning() {
        let mut config = Config::default();
        assert_eq!(switches_without_manager(&config, Ok(vec![])), None);
        let switches = switches_without_manager(&config, Ok(PciGpu::of_ids(&[0x22a3]))).unwrap();
        let finding = Finding::from(GpuError::NoFabricManager { switches });
        assert_eq!((finding.code, finding.severity), (Code::FabricNotReady, Severity::Warning));
        assert_eq!(finding.evidence, ["0000:00:00.0 10de:22a3"]);
        config.module_parameters.insert("nvidia".into(), vec!["NVreg_NvLinkDisable=1".into()]);
        assert_eq!(switches_without_manager(&config, Ok(PciGpu::of_ids(&[0x22a3]))), None);
    }
}
