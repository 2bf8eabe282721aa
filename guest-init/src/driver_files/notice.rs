//! Findings of an injection.

use std::collections::BTreeSet;
use std::path::Path;

use image::capability::{Capability, Kind, TABLE};
use image::config::DriverFiles;
use image::status::{Code, Finding, Severity};

use super::bundled::Foreign;
use super::cuda_compat::Decision;
use super::inventory::{DriverFile, Inventory, Placement};
use super::libc_fit::{TooNew, is_named};
use super::request::ContainerRequest;
use super::{InjectReport, ItemKind, Resolution, text};
use crate::confined_fs::RootDir;
use crate::status;

/// Maximum number of paths in one finding.
const MAX_NAMED: usize = 12;

fn info(code: Code, message: impl Into<String>, hint: impl Into<String>) -> Finding {
    Finding { severity: Severity::Info, ..status::warning(code, message, hint) }
}

/// Reports capabilities that the container names but the initrd does not contain.
pub(crate) fn capabilities(inventory: &Inventory, request: &ContainerRequest) -> Option<Finding> {
    let carried = inventory.capabilities();
    let missing: BTreeSet<Capability> = request.named.difference(&carried).copied().collect();
    let names = |set: &BTreeSet<Capability>| set.iter().map(|c| c.name()).collect::<Vec<_>>().join(", ");
    (!missing.is_empty()).then(|| {
        status::warning(
            Code::CapabilityMissing,
            format!(
                "the container requests the driver capabilities {}, but the initrd contains {}",
                names(&missing),
                names(&carried)
            ),
            format!(
                "build the initrd with --capabilities {}",
                names(&request.capabilities).replace(", ", ",")
            ),
        )
    })
}

/// Reports driver files that the image's C library cannot load.
pub(super) fn libc_too_old(
    found: &TooNew,
    (major, minor): (u32, u32),
    request: &ContainerRequest,
) -> Option<Finding> {
    let count = found.0.len();
    if count == 0 {
        return None;
    }
    let named = found.0.iter().filter(|(file, _)| is_named(file, request)).count();
    let evidence = found.0.iter().take(MAX_NAMED);
    let evidence =
        evidence.map(|(file, (major, minor))| format!("{} requires glibc {major}.{minor}", text(&file.from)));
    let message =
        format!("the image has glibc {major}.{minor}, but {count} driver files require a newer one");
    let finding = if named == 0 {
        info(
            Code::LibcTooOld,
            format!("{message}: they are left out"),
            "use a newer base image if these files are needed",
        )
    } else {
        let hint =
            "use a newer base image: what NVIDIA_DRIVER_CAPABILITIES requests does not start in this one";
        status::warning(Code::LibcTooOld, format!("{message}: {named} of them were requested by name"), hint)
    };
    Some(status::with_evidence(finding, evidence.collect()))
}

/// Reports programs of a capability that this driver lacks, and scripts in their place, which are left out.
pub(crate) fn programs(
    inventory: &Inventory,
    request: &ContainerRequest,
    scripts: &[&DriverFile],
) -> Option<Finding> {
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
        Some((
            capability,
            format!("{} is a script, not the driver's program: it is left out", text(&file.from)),
        ))
    });
    let found: Vec<(&Capability, String)> = missing.chain(scripts).collect();
    if found.is_empty() {
        return None;
    }
    let message = format!("{} of the driver's programs are unavailable in the container", found.len());
    let hint =
        "build the initrd from packages that contain the driver's own programs; libraries are not affected";
    let is_named = found.iter().any(|(capability, _)| request.named.contains(capability));
    let finding = if is_named {
        status::warning(Code::DriverFileMissing, message, hint)
    } else {
        info(Code::DriverFileMissing, message, hint)
    };
    Some(status::with_evidence(finding, found.into_iter().map(|(_, line)| line).collect()))
}

/// Reports driver files of the image.
pub(crate) fn bundled(found: &[Foreign], policy: DriverFiles, driver: Option<&str>) -> Option<Finding> {
    if found.is_empty() {
        return None;
    }
    let versions: BTreeSet<&str> = found.iter().filter_map(|file| file.version.as_deref()).collect();
    let versions: Vec<&str> = versions.into_iter().collect();
    let of = if versions.is_empty() { "unknown version".into() } else { versions.join(", ") };
    let what = format!(
        "the image contains {} driver files of its own ({of}), the guest's driver is {}",
        found.len(),
        driver.unwrap_or("unknown")
    );
    let mut evidence: Vec<String> = found.iter().take(MAX_NAMED).map(|file| text(&file.path)).collect();
    if found.len() > MAX_NAMED {
        evidence.push(format!("and {} more", found.len() - MAX_NAMED));
    }
    let remove = "remove the driver files from the image, which needs none";
    let finding = match policy {
        DriverFiles::Mask => {
            info(Code::ImageBundlesDriver, format!("{what}; the image's files are hidden"), remove)
        }
        DriverFiles::Keep => status::warning(
            Code::ImageBundlesDriver,
            format!("{what}; the image's files are kept (driver_files=keep)"),
            format!("{remove}; or hide them: gpu_initrd.driver_files=mask"),
        ),
        DriverFiles::Refuse => status::error(
            Code::ImageBundlesDriver,
            format!("{what} (driver_files=refuse)"),
            format!("{remove}; or hide them: gpu_initrd.driver_files=mask"),
        ),
    };
    Some(status::with_evidence(finding, evidence))
}

/// Reports the decision about a directory of compatibility libraries.
pub(crate) fn compat(decision: &Decision, driver: &str) -> Finding {
    let (dir, version, reason) = (decision.dir.display(), &decision.version, &decision.reason);
    let message = if decision.used {
        format!("CUDA compatibility libraries {version} in {dir} are used with driver {driver}: {reason}")
    } else {
        format!("CUDA compatibility libraries {version} in {dir} are not used: {reason}")
    };
    info(Code::CudaCompat, message, "")
}

/// Reports driver files that are not visible in the container: an upper layer may have removed their directory.
pub(crate) fn hidden(root: &RootDir, report: &InjectReport) -> Option<Finding> {
    let files = report.items.iter().filter(|item| item.kind == ItemKind::File);
    let unseen = files.filter(|item| root.stat(Path::new(&item.path)).is_err());
    let unseen: Vec<String> = unseen.take(MAX_NAMED).map(|item| item.path.clone()).collect();
    (!unseen.is_empty()).then(|| {
        let message = "driver files are not visible in the container: a parent directory was removed in its upper layer";
        let hint = "start the container with a fresh upper layer";
        status::with_evidence(status::warning(Code::InjectFailed, message, hint), unseen)
    })
}

/// Reports a library that the loader opens from elsewhere.
pub(crate) fn shadowed(resolution: &Resolution) -> Finding {
    let found = resolution.path.as_deref().unwrap_or("nothing");
    let version = resolution.version.as_deref().map(|version| format!(" ({version})")).unwrap_or_default();
    status::warning(
        Code::LibraryShadowed,
        format!(
            "the container's loader opens {found}{version} for {} instead of the injected driver",
            resolution.soname
        ),
        "remove the image's own driver files, remove LD_LIBRARY_PATH from its environment, or hide the files: gpu_initrd.driver_files=mask",
    )
}

/// Reports a store of Nix or Guix, and whether the program finds the driver.
pub(crate) fn store(request: &ContainerRequest, root: &RootDir, only: bool) -> Finding {
    let link = Path::new(super::destination::RUN_LINK).join("lib");
    let link = link.display();
    let program = request.program.as_deref().unwrap_or("the container's program");
    let built_for = request.runpath(root).iter().any(|dir| dir.starts_with(super::destination::RUN_LINK));
    let in_path = request.library_path.as_deref().is_some_and(|dirs| {
        dirs.to_string_lossy().split(':').any(|dir| dir.starts_with(super::destination::RUN_LINK))
    });
    let sees = match (built_for, in_path) {
        (true, _) => format!("{program} searches this directory (RUNPATH)"),
        (_, true) => "LD_LIBRARY_PATH contains it, so every program searches this directory".into(),
        _ => format!("{program} itself does not search this directory; libraries that it loads may"),
    };
    let scope = if only { "the image uses Nix or Guix" } else { "the image has a Nix or Guix store" };
    let message = format!(
        "{scope}: programs in the store find the driver in {link} if they were built to search it (addDriverRunpath)"
    );
    let hint = format!("for other programs in the store, set LD_LIBRARY_PATH={link}");
    status::with_evidence(info(Code::ImageIsNix, message, hint), vec![sees])
}
