//! Loads kernel modules in the order of the plan, and says what each refusal means.

use crate::kmsg::KernelLog;
use crate::report::{self, Board, with_evidence};
use image::manifest::{Manifest, Module, Purpose};
use image::status::{Code, Finding, Phase};
use nix::errno::Errno;
use nix::kmod::{ModuleInitFlags, finit_module};
use std::collections::BTreeMap;
use std::ffi::CString;
use std::fs::{self, File};

/// `MODULE_INIT_COMPRESSED_FILE` of linux/module.h: the kernel unpacks the module itself.
const COMPRESSED: u32 = 4;
/// Writing 1 here forbids loading until the next boot.
const LOCK: &str = "/proc/sys/kernel/modules_disabled";

/// The module without which nothing of the driver works.
const DRIVER: &str = "nvidia";

/// Loads the driver's modules. What comes after the driver itself may fail, with a finding; returns whether all are loaded.
///
/// # Errors
/// The finding that explains why there is no driver.
pub fn load_driver(
    manifest: &Manifest,
    parameters: &BTreeMap<String, Vec<String>>,
    board: &Board,
) -> Result<bool, Finding> {
    let (mut has_driver, mut all) = (false, true);
    let modules: Vec<_> = manifest.modules_for(Purpose::Gpu).collect();
    for (done, module) in modules.iter().enumerate() {
        board.progress(Phase::Gpu, done, modules.len());
        match load(module, &manifest.module_path(module), parameters, &manifest.kernel_release) {
            Ok(()) => has_driver |= module.name == DRIVER,
            Err(finding) if has_driver => {
                board.finding(finding);
                all = false;
            }
            Err(finding) => return Err(finding),
        }
    }
    Ok(all)
}

/// Whether the modules of the plan are for the kernel that runs: the first thing that is asked, since nothing else can go well then.
///
/// # Errors
/// The finding that names both.
pub fn fit(manifest: &Manifest, running: &str) -> Result<(), Finding> {
    if manifest.modules.is_empty() || manifest.kernel_release == running {
        return Ok(());
    }
    let message = format!("this kernel is {running}, the initrd has modules for {}", manifest.kernel_release);
    let hint = "boot the kernel that build-initrd wrote beside the initrd";
    Err(report::error(Code::KernelMismatch, message, hint))
}

/// Loads every module of one purpose, going on after failures, which become findings.
pub fn load_what_can(
    manifest: &Manifest,
    purpose: Purpose,
    parameters: &BTreeMap<String, Vec<String>>,
    board: &Board,
) {
    for module in manifest.modules_for(purpose) {
        let path = manifest.module_path(module);
        if let Err(finding) = load(module, &path, parameters, &manifest.kernel_release) {
            board.finding(finding);
        }
    }
}

fn load(
    module: &Module,
    path: &str,
    more: &BTreeMap<String, Vec<String>>,
    release: &str,
) -> Result<(), Finding> {
    let mut parameters = module.parameters.clone();
    for parameter in more.get(&module.name).into_iter().flatten() {
        parameters = format!("{parameters} {parameter}");
    }
    let c_parameters = CString::new(parameters.trim()).unwrap_or_default();
    let file = match File::open(path) {
        Ok(file) => file,
        // It was loaded, and its file removed, before.
        Err(_) if is_loaded(&module.name) => return Ok(()),
        Err(error) => {
            return Err(report::error(
                Code::ModuleMissing,
                format!("module {} is in the plan, {path} cannot be read: {error}", module.name),
                "the image is incomplete: build the initrd again",
            ));
        }
    };
    let mut flags = ModuleInitFlags::empty();
    if !path.ends_with(".ko") {
        flags = ModuleInitFlags::from_bits_retain(COMPRESSED);
    }
    let mut log = KernelLog::here();
    match finit_module(&file, &c_parameters, flags) {
        Ok(()) => {
            log::debug!("loaded {} {}", module.name, parameters.trim());
            // The initramfs is memory, and what is loaded needs its file no more.
            let _ = fs::remove_file(path);
            Ok(())
        }
        Err(Errno::EEXIST) => Ok(()),
        Err(errno) => Err(refusal(module, errno, log.lines(), release)),
    }
}

/// What an errno of `finit_module` means (kernel/module/main.c).
fn refusal(module: &Module, errno: Errno, log: Vec<String>, release: &str) -> Finding {
    let name = &module.name;
    let (code, message, hint) = match errno {
        Errno::ENODEV if module.purpose == Purpose::Gpu => (
            Code::NoGpu,
            format!("module {name} found no device that it drives"),
            "pass a GPU through to the guest (VFIO), or boot without HAS_GPU=1",
        ),
        Errno::EKEYREJECTED | Errno::ENOKEY | Errno::EPERM => (
            Code::ModuleRejected,
            format!("the kernel rejected the signature of module {name} ({errno})"),
            "boot a kernel that does not enforce module signatures (module.sig_enforce, lockdown), or sign the modules with its key",
        ),
        Errno::ENOEXEC | Errno::EINVAL => (
            Code::KernelMismatch,
            format!(
                "module {name} was built for another kernel: its vermagic is {:?}, the running kernel is {:?} ({errno})",
                module.vermagic,
                running_release(),
            ),
            "boot the kernel that build-initrd wrote beside the initrd",
        ),
        Errno::ENOENT => (
            Code::ModuleFailed,
            format!("module {name} needs a symbol that the kernel does not have ({errno})"),
            "boot the kernel that build-initrd wrote beside the initrd",
        ),
        _ => (
            Code::ModuleFailed,
            format!("module {name} could not be loaded: {errno}"),
            "the kernel's lines say why",
        ),
    };
    // A module that says ENOEXEC on the very kernel it was made for is damaged, not foreign.
    let same = code == Code::KernelMismatch && module.vermagic.split(' ').next() == Some(&running_release());
    let (code, message, hint) = if same {
        let message = format!("the kernel {release} cannot use module {name}: {errno}");
        (
            Code::ModuleFailed,
            message,
            "correct its parameters (MODULE.PARAMETER=VALUE on the command line); the kernel's lines say more",
        )
    } else {
        (code, message, hint)
    };
    with_evidence(report::error(code, message, hint), log)
}

fn running_release() -> String {
    fs::read_to_string("/proc/sys/kernel/osrelease").map(|text| text.trim().to_owned()).unwrap_or_default()
}

/// Whether the kernel has a module.
pub fn is_loaded(name: &str) -> bool {
    fs::exists(format!("/sys/module/{name}")).unwrap_or(false)
}

/// Forbids loading any further module, and reads back that it is so.
///
/// # Errors
/// What the file says instead.
pub fn lock() -> Result<(), String> {
    fs::write(LOCK, "1").map_err(|error| format!("{LOCK}: {error}"))?;
    match fs::read_to_string(LOCK) {
        Ok(text) if text.trim() == "1" => Ok(()),
        Ok(text) => Err(format!("{LOCK}: wrote 1, it says {:?}", text.trim())),
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
        let code = |errno| refusal(&module(), errno, vec![], "1.2.3").code;
        assert_eq!(code(Errno::ENODEV), Code::NoGpu);
        assert_eq!(code(Errno::EKEYREJECTED), Code::ModuleRejected);
        assert_eq!(code(Errno::ENOEXEC), Code::KernelMismatch);
        assert_eq!(code(Errno::EINVAL), Code::KernelMismatch);
        assert_eq!(code(Errno::ENOENT), Code::ModuleFailed);
        assert_eq!(code(Errno::ENOMEM), Code::ModuleFailed);
    }

    #[test]
    fn a_mismatch_names_both_kernels() {
        let finding = refusal(&module(), Errno::ENOEXEC, vec!["line".into()], "1.2.3");
        assert!(finding.message.contains("1.2.3 SMP") && finding.message.contains(&running_release()));
        assert_eq!(finding.evidence, ["line"]);
    }

    #[test]
    fn a_missing_file_is_a_finding() {
        assert_eq!(
            load(&module(), "/x/nvidia.ko", &BTreeMap::new(), "1").unwrap_err().code,
            Code::ModuleMissing
        );
    }
}
