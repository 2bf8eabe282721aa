//! Converts errors into findings: the code, the severity and the evidence of each. The remedy is that of the code. No module
//! imports this file; the compiler finds the traits.

use super::error::BootError;
use crate::container::ContainerError;
use crate::container::rootfs::RootfsError;
use crate::driver_files::{InjectError, MAX_NAMED, Notice, PayloadError};
use crate::gpu::error::{AdapterFailure, GpuError};
use crate::kernel::modules::LoadError;
use crate::lifecycle::GuestTrouble;
use crate::status::helper::HelperPanicked;
use image::config::DriverFiles;
use image::status::{Code, Finding, Severity};
use image::text::chain;
use std::error::Error;

/// Creates the finding of an error; its message has every cause of the error.
fn finding(code: Code, severity: Severity, error: &dyn Error, evidence: Vec<String>) -> Finding {
    Finding::new(code, severity, chain(error), evidence)
}

/// The first [`MAX_NAMED`] lines, and the number of the others.
fn some(lines: impl ExactSizeIterator<Item = String>) -> Vec<String> {
    let more = lines.len().saturating_sub(MAX_NAMED);
    let rest = (more > 0).then(|| format!("and {more} more"));
    lines.take(MAX_NAMED).chain(rest).collect()
}

impl From<LoadError> for Finding {
    fn from(error: LoadError) -> Self {
        let (code, log) = match &error {
            LoadError::Missing { .. } => (Code::ModuleMissing, Vec::new()),
            LoadError::NoDevice { log, .. } => (Code::NoGpu, log.clone()),
            LoadError::Rejected { log, .. } => (Code::ModuleRejected, log.clone()),
            LoadError::OtherKernel { log, .. } => (Code::KernelMismatch, log.clone()),
            LoadError::Refused { log, .. } => (Code::ModuleFailed, log.clone()),
        };
        finding(code, Severity::Error, &error, log)
    }
}

impl From<BootError> for Finding {
    fn from(error: BootError) -> Self {
        let (code, severity) = match &error {
            BootError::Manifest { .. } => (Code::ManifestInvalid, Severity::Error),
            BootError::Value(_) | BootError::ConfigDisk { .. } | BootError::Contradiction(_) => {
                (Code::ConfigInvalid, Severity::Error)
            }
            BootError::UnknownKey(_) | BootError::MoreUnknownKeys(_) => {
                (Code::ConfigUnknownKey, Severity::Warning)
            }
            BootError::KeysWithoutEffect(_) => (Code::ConfigUnknownKey, Severity::Info),
            BootError::NoDriver => (Code::NoDriver, Severity::Error),
            BootError::NoGpu { .. } => (Code::NoGpu, Severity::Error),
            BootError::OtherGpus { .. } => (Code::GpuCountMismatch, Severity::Error),
            BootError::CommandLine(_)
            | BootError::PciBus(_)
            | BootError::Mounts(_)
            | BootError::Keeper(_) => (Code::Internal, Severity::Error),
        };
        let present =
            if let BootError::OtherGpus { present, .. } = &error { present.clone() } else { vec![] };
        // The error of a value is its message; its sources repeat it.
        Self::new(code, severity, error.to_string(), present)
    }
}

impl From<GpuError> for Finding {
    fn from(error: GpuError) -> Self {
        let lines = |gpus: &[crate::gpu::pci::PciGpu]| gpus.iter().map(ToString::to_string).collect();
        let (code, severity, evidence) = match error {
            GpuError::Module(error) => return error.into(),
            GpuError::VersionMismatch { .. } => (Code::ModuleVersionMismatch, Severity::Error, vec![]),
            GpuError::UvmMissing => (Code::UvmMissing, Severity::Error, vec![]),
            GpuError::NoFabricManager { ref switches } => {
                (Code::FabricNotReady, Severity::Warning, lines(switches))
            }
            GpuError::Proc { .. } | GpuError::Node(_) => (Code::NodeFailed, Severity::Error, vec![]),
            GpuError::NodeReplaced { .. } => (Code::NodeConflict, Severity::Warning, vec![]),
            GpuError::NotBound { why, ref log, .. } => {
                let code = if why.is_unsupported() { Code::GpuUnsupported } else { Code::GpuNotBound };
                (code, Severity::Error, log.clone())
            }
            GpuError::Adapter { ref why, ref log, .. } => (of_adapter(why), Severity::Error, log.clone()),
            GpuError::NotVisible { ref present, .. } => {
                (Code::ConfigInvalid, Severity::Error, present.clone())
            }
            GpuError::RequirementUnmet { ref name, ref value, .. } => {
                (Code::CudaRequirementUnmet, Severity::Error, vec![format!("{name}={value}")])
            }
        };
        finding(code, severity, &error, evidence)
    }
}

fn of_adapter(why: &AdapterFailure) -> Code {
    match why {
        AdapterFailure::FirmwareMissing { .. } => Code::FirmwareMissing,
        AdapterFailure::Wpr2AlreadyUp => Code::Wpr2AlreadyUp,
        AdapterFailure::OutOfMemory(_) => Code::LowMemory,
        AdapterFailure::Initialisation(_) | AdapterFailure::Open(_) | AdapterFailure::Timeout { .. } => {
            Code::AdapterInitFailed
        }
    }
}

impl From<PayloadError> for Finding {
    fn from(error: PayloadError) -> Self {
        let (code, log) = match &error {
            PayloadError::DiskMissing { .. } => (Code::PayloadDiskMissing, Vec::new()),
            PayloadError::Altered { log, .. } => (Code::PayloadAltered, log.clone()),
            PayloadError::Unusable { log, .. } => (Code::PayloadUnusable, log.clone()),
            PayloadError::Firmware(_) => (Code::FirmwareMissing, Vec::new()),
        };
        finding(code, Severity::Error, &error, log)
    }
}

impl From<RootfsError> for Finding {
    fn from(error: RootfsError) -> Self {
        let (code, log) = match error {
            RootfsError::Inject(error) => return error.into(),
            RootfsError::Cache(InjectError::Refused(notice)) => return Self::from(*notice),
            RootfsError::Cache(_) => (Code::CacheFailed, Vec::new()),
            RootfsError::Capability(_) => (Code::ConfigInvalid, Vec::new()),
            RootfsError::Overlay { ref log, .. } => (Code::RootUnusable, log.clone()),
            RootfsError::Layer { ref log, .. } => (Code::InjectFailed, log.clone()),
            RootfsError::LayerDirectory { .. } | RootfsError::Open(_) => (Code::InjectFailed, Vec::new()),
            RootfsError::Disk(_)
            | RootfsError::NoDisk { .. }
            | RootfsError::Virtiofs { .. }
            | RootfsError::Unsupported(_)
            | RootfsError::ReadOnly
            | RootfsError::Upper(_)
            | RootfsError::TimedOut(_)
            | RootfsError::Scratch(_) => (Code::RootUnusable, Vec::new()),
        };
        finding(code, Severity::Error, &error, log)
    }
}

impl From<InjectError> for Finding {
    fn from(error: InjectError) -> Self {
        match error {
            InjectError::Refused(notice) => Self::from(*notice),
            // The container starts, with the device nodes only.
            InjectError::NoGlibc { .. } => {
                finding(Code::ImageHasNoGlibc, Severity::Warning, &error, Vec::new())
            }
            InjectError::NoSpace { .. } => finding(Code::NoSpace, Severity::Error, &error, Vec::new()),
            error => {
                let message = format!("cannot add the driver files to the container: {}", chain(&error));
                Self::new(Code::InjectFailed, Severity::Error, message, Vec::new())
            }
        }
    }
}

impl From<Notice> for Finding {
    fn from(notice: Notice) -> Self {
        let (code, severity, evidence) = match &notice {
            Notice::CapabilityMissing { .. } => (Code::CapabilityMissing, Severity::Warning, vec![]),
            Notice::LibcTooOld { files, named, .. } => {
                let lines = files.iter().map(|(path, (major, minor))| {
                    format!("{} requires glibc {major}.{minor}", path.display())
                });
                let severity = if *named == 0 { Severity::Info } else { Severity::Warning };
                (Code::LibcTooOld, severity, some(lines))
            }
            Notice::ProgramsMissing { programs, named } => {
                let severity = if *named { Severity::Warning } else { Severity::Info };
                (Code::DriverFileMissing, severity, programs.clone())
            }
            Notice::BundlesDriver { files, policy, .. } => {
                let severity = match policy {
                    DriverFiles::Mask => Severity::Info,
                    DriverFiles::Keep => Severity::Warning,
                    DriverFiles::Refuse => Severity::Error,
                };
                let paths = files.iter().map(|path| path.to_string_lossy().into_owned());
                (Code::ImageBundlesDriver, severity, some(paths))
            }
            Notice::CudaCompat { .. } => (Code::CudaCompat, Severity::Info, vec![]),
            Notice::Hidden { paths } => (Code::InjectFailed, Severity::Warning, paths.clone()),
            Notice::Shadowed { .. } => (Code::LibraryShadowed, Severity::Warning, vec![]),
            Notice::Store { program, .. } => (Code::ImageIsNix, Severity::Info, vec![program.clone()]),
        };
        finding(code, severity, &notice, evidence)
    }
}

impl From<ContainerError> for Finding {
    fn from(error: ContainerError) -> Self {
        let (code, evidence) = match &error {
            ContainerError::NoCommand | ContainerError::User(_) | ContainerError::WorkingDirectory { .. } => {
                (Code::ConfigInvalid, Vec::new())
            }
            ContainerError::ProgramNotFound { .. } => (Code::EntrypointNotFound, Vec::new()),
            ContainerError::NoInterpreter(_) | ContainerError::NotExecutable { .. } => {
                (Code::EntrypointNotExecutable, Vec::new())
            }
            ContainerError::Setup(_) => (Code::RootUnusable, Vec::new()),
            ContainerError::VolumeMissing { .. } => (Code::VolumeMissing, Vec::new()),
            ContainerError::VolumeUnusable { .. } => (Code::VolumeUnusable, Vec::new()),
            ContainerError::Internal { output, .. } => (Code::Internal, output.clone()),
        };
        finding(code, Severity::Error, &error, evidence)
    }
}

impl From<GuestTrouble> for Finding {
    fn from(trouble: GuestTrouble) -> Self {
        let (code, severity, evidence) = match &trouble {
            GuestTrouble::Xid { line, .. } | GuestTrouble::NotLost { line, .. } => {
                (Code::GpuXid, Severity::Warning, vec![line.clone()])
            }
            GuestTrouble::GpuLost { lines, .. } => (Code::GpuLost, Severity::Error, lines.clone()),
            GuestTrouble::OomKilled { line } => {
                (Code::OomKilled, Severity::Error, line.iter().cloned().collect())
            }
            GuestTrouble::OutOfMemory { line, .. } => {
                (Code::LowMemory, Severity::Warning, vec![line.clone()])
            }
            GuestTrouble::LittleMemory { .. } => (Code::LowMemory, Severity::Warning, Vec::new()),
            GuestTrouble::PhaseTimedOut { threads, .. } => {
                (Code::StepTimedOut, Severity::Error, threads.clone())
            }
            GuestTrouble::TaskHung { line, .. } => (Code::TaskHung, Severity::Warning, vec![line.clone()]),
            GuestTrouble::CpuStuck { line, .. } => (Code::CpuStuck, Severity::Warning, vec![line.clone()]),
            GuestTrouble::Panic { .. } => (Code::Internal, Severity::Error, Vec::new()),
        };
        finding(code, severity, &trouble, evidence)
    }
}

impl From<HelperPanicked> for Finding {
    fn from(error: HelperPanicked) -> Self {
        finding(Code::Internal, Severity::Warning, &error, Vec::new())
    }
}
