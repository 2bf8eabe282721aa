//! What the operator should know about an injection, as data. The boot makes findings of it.

use std::collections::BTreeSet;
use std::path::PathBuf;

use image::capability::{Capability, Kind, TABLE};
use image::config::DriverFiles;

use super::cuda_compat::Decision;
use super::inventory::{DriverFile, Inventory, Placement};
use super::libc_fit::{TooNew, is_named};
use super::request::ContainerRequest;

/// Maximum number of paths in the evidence of one finding.
pub const MAX_NAMED: usize = 12;

/// Something about an injection that the operator should know.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Notice {
    /// The container names capabilities that the initrd does not contain.
    #[error("the container requests the driver capabilities {missing}, but the initrd contains {carried}")]
    CapabilityMissing {
        /// The missing ones, with commas.
        missing: String,
        /// Those in the initrd, with commas.
        carried: String,
    },
    /// The image's C library cannot load driver files.
    #[error(
        "the image has glibc {}.{}, but {} driver files require a newer one: {}",
        .glibc.0, .glibc.1, .files.len(),
        if *.named == 0 { "they are left out".into() } else { format!("{named} of them were requested by name") }
    )]
    LibcTooOld {
        /// Version of the image's glibc.
        glibc: (u32, u32),
        /// The files, each with the version that it requires.
        files: Vec<(PathBuf, (u32, u32))>,
        /// Number of files that the container requested by name: they are not left out.
        named: usize,
    },
    /// Programs of a capability are missing, or scripts are in their place.
    #[error("{} of the driver's programs are unavailable in the container", .programs.len())]
    ProgramsMissing {
        /// One line for each.
        programs: Vec<String>,
        /// Whether the container requested the capability of one by name.
        named: bool,
    },
    /// The image contains driver files of its own.
    #[error(
        "the image contains {} driver files of its own ({versions}), the guest's driver is {}{}",
        .files.len(), .driver.as_deref().unwrap_or("unknown"), ending(*.policy)
    )]
    BundlesDriver {
        /// The files.
        files: Vec<PathBuf>,
        /// Their driver versions, with commas.
        versions: String,
        /// Version of the guest's driver.
        driver: Option<String>,
        /// What happens to them.
        policy: DriverFiles,
    },
    /// A directory of CUDA compatibility libraries is used, or not.
    #[error(
        "CUDA compatibility libraries {} in {} are {}: {}",
        .decision.version, .decision.dir.display(),
        if .decision.used { format!("used with driver {driver}") } else { "not used".into() },
        .decision.reason
    )]
    CudaCompat {
        /// The decision.
        decision: Decision,
        /// Version of the guest's driver.
        driver: String,
    },
    /// Driver files are not visible in the container.
    #[error(
        "driver files are not visible in the container: a parent directory was removed in its upper layer"
    )]
    Hidden {
        /// Some of them.
        paths: Vec<String>,
    },
    /// The container's loader opens a library from elsewhere.
    #[error(
        "the container's loader opens {}{} for {soname} instead of the injected driver",
        .path.as_deref().unwrap_or("nothing"),
        .version.as_deref().map(|version| format!(" ({version})")).unwrap_or_default()
    )]
    Shadowed {
        /// The requested name.
        soname: String,
        /// The path that the loader opens.
        path: Option<String>,
        /// The driver version in the name of the file there.
        version: Option<String>,
    },
    /// The image has a store of Nix or Guix.
    #[error(
        "{}: programs in the store find the driver in {}/lib if they were built to search it (addDriverRunpath)",
        if *.only { "the image uses Nix or Guix" } else { "the image has a Nix or Guix store" },
        super::destination::RUN_LINK
    )]
    Store {
        /// Whether the image has no other loader.
        only: bool,
        /// Whether the container's program searches there, in words.
        program: String,
    },
}

fn ending(policy: DriverFiles) -> &'static str {
    match policy {
        DriverFiles::Mask => "; the image's files are hidden",
        DriverFiles::Keep => "; the image's files are kept (driver_files=keep)",
        DriverFiles::Refuse => " (driver_files=refuse)",
    }
}

/// Reports capabilities that the container names but the initrd does not contain.
pub(super) fn capabilities(inventory: &Inventory, request: &ContainerRequest) -> Option<Notice> {
    let carried = inventory.capabilities();
    let missing: BTreeSet<Capability> = request.named.difference(&carried).copied().collect();
    let names = |set: &BTreeSet<Capability>| set.iter().map(|c| c.name()).collect::<Vec<_>>().join(", ");
    let (missing, carried) = (names(&missing), names(&carried));
    (!missing.is_empty()).then_some(Notice::CapabilityMissing { missing, carried })
}

/// Reports driver files that the image's C library cannot load.
pub(super) fn libc_too_old(found: &TooNew, glibc: (u32, u32), request: &ContainerRequest) -> Option<Notice> {
    let named = found.0.iter().filter(|(file, _)| is_named(file, request)).count();
    let files: Vec<_> = found.0.iter().map(|(file, needed)| (file.from.clone(), *needed)).collect();
    (!files.is_empty()).then_some(Notice::LibcTooOld { glibc, files, named })
}

/// Reports programs of a capability that this driver lacks, and scripts in their place, which are left out.
pub(super) fn programs(
    inventory: &Inventory,
    request: &ContainerRequest,
    scripts: &[&DriverFile],
) -> Option<Notice> {
    let carried = inventory.capabilities();
    let is_asked =
        |capability: &&Capability| request.capabilities.contains(capability) && carried.contains(capability);
    let missing = TABLE.iter().filter(|row| row.required).filter_map(|row| {
        let (Kind::Program(name), Some(capability)) = (row.kind, row.capabilities.iter().find(is_asked))
        else {
            return None;
        };
        let is_it = |file: &DriverFile| matches!(&file.place, Placement::Program(found) if found == name);
        (!inventory.files.iter().any(is_it))
            .then(|| (capability, format!("{name} is missing (capability {capability})")))
    });
    let scripts = scripts.iter().filter_map(|file| {
        let capability = file.capabilities.iter().find(is_asked)?;
        let line = format!("{} is a script, not the driver's program: it is left out", file.from.display());
        Some((capability, line))
    });
    let found: Vec<(&Capability, String)> = missing.chain(scripts).collect();
    let named = found.iter().any(|(capability, _)| request.named.contains(capability));
    let programs: Vec<String> = found.into_iter().map(|(_, line)| line).collect();
    (!programs.is_empty()).then_some(Notice::ProgramsMissing { programs, named })
}
