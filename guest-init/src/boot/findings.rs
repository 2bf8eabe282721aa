//! Converts errors into findings: the code, the severity, the evidence and the remedy of each. No module imports this file; the compiler finds the traits.

use crate::kernel::modules::LoadError;
use crate::status::{error, with_evidence};
use image::status::{Code, Finding};

impl From<LoadError> for Finding {
    fn from(failed: LoadError) -> Self {
        let message = failed.to_string();
        let (code, hint, log) = match failed {
            LoadError::Missing { .. } => {
                (Code::ModuleMissing, "rebuild the initrd: it is incomplete", Vec::new())
            }
            LoadError::NoDevice { log, .. } => {
                (Code::NoGpu, "pass a GPU through to the guest (VFIO), or omit HAS_GPU=1", log)
            }
            LoadError::Rejected { log, .. } => (
                Code::ModuleRejected,
                "boot a kernel that does not enforce module signatures (module.sig_enforce, lockdown), or sign the modules with the kernel's key",
                log,
            ),
            LoadError::OtherKernel { log, .. } => {
                (Code::KernelMismatch, "boot the kernel that build-initrd wrote next to the initrd", log)
            }
            LoadError::Refused { remedy, log, .. } => (Code::ModuleFailed, remedy, log),
        };
        with_evidence(error(code, message, hint), log)
    }
}
