//! Loads one kernel module, and explains failures.

use super::signature;
use crate::kernel::bounded::bounded_with;
use crate::kernel::kmsg_writer::KernelLog;
use crate::kernel::sysinfo;
use image::manifest::{Module, Purpose};
use nix::errno::Errno;
use nix::kmod::{ModuleInitFlags, finit_module};
use std::collections::BTreeMap;
use std::ffi::CString;
use std::fs::{self, File};
use std::io;
use std::time::Duration;

/// `MODULE_INIT_COMPRESSED_FILE` of linux/module.h: the kernel unpacks the module itself.
const COMPRESSED: u32 = 4;

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

/// Loads a module from its file. One that is loaded already is no error. It may take `longer` than other steps.
pub(super) fn load(
    module: &Module,
    path: &str,
    more: &BTreeMap<String, Vec<String>>,
    release: &str,
    longer: Duration,
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
    let is_compressed = !path.ends_with(".ko");
    let log = KernelLog::here();
    let loaded = bounded_with(longer, format!("loading module {}", module.name), move || {
        if is_compressed {
            return finit_module(&file, &c_parameters, ModuleInitFlags::from_bits_retain(COMPRESSED));
        }
        signature::load(&file, &c_parameters)
    });
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
            on: None,
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
        let error = load(&module(), "/x/nvidia.ko", &BTreeMap::new(), "1", Duration::ZERO).unwrap_err();
        assert!(matches!(error, LoadError::Missing { ref path, .. } if path == "/x/nvidia.ko"));
    }
}
