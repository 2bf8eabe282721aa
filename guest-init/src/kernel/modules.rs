//! Loads kernel modules in the order of the manifest, and explains failures.

use super::bounded::bounded;
use super::kmsg_writer::KernelLog;
use super::sysinfo;
use image::manifest::{Manifest, Module, Purpose};
use nix::errno::Errno;
use nix::kmod::{ModuleInitFlags, finit_module};
use std::collections::BTreeMap;
use std::ffi::CString;
use std::fs::{self, File};
use std::io;

/// `MODULE_INIT_COMPRESSED_FILE` of linux/module.h: the kernel unpacks the module itself.
const COMPRESSED: u32 = 4;
/// Writing 1 here disables module loading until the next boot.
const LOCK: &str = "/proc/sys/kernel/modules_disabled";

/// The module that the rest of the driver requires.
const DRIVER: &str = "nvidia";

/// Why a module was not loaded, with the kernel's log lines of the attempt.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// Its file cannot be read.
    #[error("cannot read module {module} of the manifest: {path}: {source}")]
    Missing {
        /// The module.
        module: String,
        /// Its file.
        path: String,
        /// The error of the system.
        source: io::Error,
    },
    /// A GPU driver found no device that it supports.
    #[error("module {module} found no device that it supports")]
    NoDevice {
        /// The module.
        module: String,
        /// Lines of the kernel's log.
        log: Vec<String>,
    },
    /// The kernel enforces signatures.
    #[error("the kernel rejected the signature of module {module} ({errno})")]
    Rejected {
        /// The module.
        module: String,
        /// The kernel's error.
        errno: Errno,
        /// Lines of the kernel's log.
        log: Vec<String>,
    },
    /// The module, or every module of the manifest, is for a different kernel.
    #[error("{what}")]
    OtherKernel {
        /// Both kernels.
        what: String,
        /// Lines of the kernel's log.
        log: Vec<String>,
    },
    /// Anything else.
    #[error("{what}")]
    Refused {
        /// What happened.
        what: String,
        /// Lines of the kernel's log.
        log: Vec<String>,
    },
}

/// Loads the driver's modules. `progress` receives the number of loaded modules and of all modules. Modules after the driver
/// itself may fail; their errors are returned.
///
/// # Errors
/// Why the driver itself was not loaded.
pub fn load_driver(
    manifest: &Manifest,
    parameters: &BTreeMap<String, Vec<String>>,
    mut progress: impl FnMut(usize, usize),
) -> Result<Vec<LoadError>, LoadError> {
    let (mut has_driver, mut failed) = (false, Vec::new());
    let modules: Vec<_> = manifest.modules_for(Purpose::Gpu).collect();
    for (done, module) in modules.iter().enumerate() {
        progress(done, modules.len());
        match load(module, &manifest.module_path(module), parameters, &manifest.kernel_release) {
            Ok(()) => has_driver |= module.name == DRIVER,
            Err(error) if has_driver => failed.push(error),
            Err(error) => return Err(error),
        }
    }
    Ok(failed)
}

/// Checks first of all whether the modules in the manifest are for the running kernel.
///
/// # Errors
/// [`LoadError::OtherKernel`] with both releases.
pub fn fit(manifest: &Manifest, running: &str) -> Result<(), LoadError> {
    if manifest.modules.is_empty() || manifest.kernel_release == running {
        return Ok(());
    }
    let what =
        format!("this kernel is {running}, but the initrd has modules for {}", manifest.kernel_release);
    Err(LoadError::OtherKernel { what, log: Vec::new() })
}

/// Loads every module of one purpose. Continues after failures, which are returned.
pub fn load_what_can(
    manifest: &Manifest,
    purpose: Purpose,
    parameters: &BTreeMap<String, Vec<String>>,
) -> Vec<LoadError> {
    let load =
        |module: &Module| load(module, &manifest.module_path(module), parameters, &manifest.kernel_release);
    manifest.modules_for(purpose).filter_map(|module| load(module).err()).collect()
}

fn load(
    module: &Module,
    path: &str,
    more: &BTreeMap<String, Vec<String>>,
    release: &str,
) -> Result<(), LoadError> {
    let mut parameters = module.parameters.clone();
    for parameter in more.get(&module.name).into_iter().flatten() {
        parameters = format!("{parameters} {parameter}");
    }
    let c_parameters = CString::new(parameters.trim()).unwrap_or_default();
    let file = match File::open(path) {
        Ok(file) => file,
        // It was loaded before, and its file was removed.
        Err(_) if is_loaded(&module.name) => return Ok(()),
        Err(source) => {
            return Err(LoadError::Missing { module: module.name.clone(), path: path.into(), source });
        }
    };
    let mut flags = ModuleInitFlags::empty();
    if !path.ends_with(".ko") {
        flags = ModuleInitFlags::from_bits_retain(COMPRESSED);
    }
    let log = KernelLog::here();
    let loaded = {
        let parameters = c_parameters.clone();
        bounded(format!("loading module {}", module.name), move || finit_module(&file, &parameters, flags))
    };
    match loaded.map_err(|error| LoadError::Refused { what: error.to_string(), log: log.lines() })? {
        Ok(()) => {
            log::debug!("loaded {} {}", module.name, parameters.trim());
            // The initramfs is memory, and a loaded module no longer needs its file.
            let _ = fs::remove_file(path);
            Ok(())
        }
        Err(Errno::EEXIST) => Ok(()),
        Err(errno) => Err(refusal(module, errno, log.lines(), release)),
    }
}

/// Explains an errno of `finit_module` (kernel/module/main.c).
fn refusal(module: &Module, errno: Errno, log: Vec<String>, release: &str) -> LoadError {
    let name = module.name.clone();
    let running = sysinfo::release();
    match errno {
        Errno::ENODEV if module.purpose == Purpose::Gpu => LoadError::NoDevice { module: name, log },
        Errno::EKEYREJECTED | Errno::ENOKEY | Errno::EPERM => {
            LoadError::Rejected { module: name, errno, log }
        }
        // A module that fails with ENOEXEC on the kernel it was built for is damaged.
        Errno::ENOEXEC | Errno::EINVAL if module.vermagic.split(' ').next() == Some(&running) => {
            let what = format!("kernel {release} cannot load module {name}: {errno}");
            LoadError::Refused { what, log }
        }
        Errno::ENOEXEC | Errno::EINVAL => {
            let vermagic = &module.vermagic;
            let what = format!(
                "module {name} was built for another kernel: its vermagic is {vermagic:?}, but the running kernel is {running:?} ({errno})"
            );
            LoadError::OtherKernel { what, log }
        }
        Errno::ENOENT => {
            let what = format!("module {name} requires a symbol that the kernel does not have ({errno})");
            LoadError::Refused { what, log }
        }
        _ => {
            let what = format!("cannot load module {name}: {errno}");
            LoadError::Refused { what, log }
        }
    }
}

/// Returns whether a module is loaded.
pub fn is_loaded(name: &str) -> bool {
    fs::exists(format!("/sys/module/{name}")).unwrap_or(false)
}

/// Disables module loading, and reads the setting back.
///
/// # Errors
/// Why module loading is still enabled.
pub fn lock() -> Result<(), String> {
    fs::write(LOCK, "1").map_err(|error| format!("{LOCK}: {error}"))?;
    match fs::read_to_string(LOCK) {
        Ok(text) if text.trim() == "1" => Ok(()),
        Ok(text) => Err(format!("{LOCK}: wrote 1, read back {:?}", text.trim())),
        Err(error) => Err(format!("{LOCK}: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn module() -> Module {
        Module {
            name: "nvidia".into(),
            path: "/x/nvidia.ko".into(),
            purpose: Purpose::Gpu,
            parameters: String::new(),
            depends: vec![],
            vermagic: "1.2.3 SMP".into(),
            version: None,
        }
    }

    #[test]
    fn every_errno_has_its_meaning() {
        let refusal = |errno| refusal(&module(), errno, vec![], "1.2.3");
        assert!(matches!(refusal(Errno::ENODEV), LoadError::NoDevice { .. }));
        assert!(matches!(refusal(Errno::EKEYREJECTED), LoadError::Rejected { .. }));
        assert!(matches!(refusal(Errno::ENOEXEC), LoadError::OtherKernel { .. }));
        assert!(matches!(refusal(Errno::EINVAL), LoadError::OtherKernel { .. }));
        assert!(matches!(refusal(Errno::ENOENT), LoadError::Refused { .. }));
        assert!(matches!(refusal(Errno::ENOMEM), LoadError::Refused { .. }));
    }

    #[test]
    fn a_mismatch_names_both_kernels() {
        let error = refusal(&module(), Errno::ENOEXEC, vec!["line".into()], "1.2.3");
        let text = error.to_string();
        assert!(text.contains("1.2.3 SMP") && text.contains(&sysinfo::release()), "{text}");
    }

    #[test]
    fn a_missing_file_is_named() {
        let error = load(&module(), "/x/nvidia.ko", &BTreeMap::new(), "1").unwrap_err();
        assert!(matches!(error, LoadError::Missing { ref path, .. } if path == "/x/nvidia.ko"));
    }
}
