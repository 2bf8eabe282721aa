//! Loads a module without its signature where the kernel does not ask for one. To check a signature takes the kernel far longer than to
//! load the module, and a kernel that accepts modules without a signature, as NVIDIA's usually are, gains nothing by it: the modules come
//! from the same initrd as this program. It then marks itself as tainted (`E`), as it does for NVIDIA's.

use image::elf::length_without_signature;
use nix::errno::Errno;
use nix::kmod::{ModuleInitFlags, finit_module, init_module};
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};
use std::ffi::{CStr, c_void};
use std::fs::{self, File};
use std::num::NonZeroUsize;
use std::ptr::NonNull;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

/// Whether the kernel accepts only signed modules: `Y` or `N`. Absent from kernels that know no signatures.
const ENFORCED: &str = "/sys/module/module/parameters/sig_enforce";

/// Set once the kernel has refused a module without a signature, as it also does when it is locked down.
static REFUSED: AtomicBool = AtomicBool::new(false);

/// Loads the uncompressed module in `file`.
///
/// # Errors
/// That of the system call.
pub(super) fn load(file: &File, parameters: &CStr) -> Result<(), Errno> {
    if let Some(module) = Unsigned::of(file).filter(|_| !is_needed()) {
        match init_module(module.bytes(), parameters) {
            // An enforced signature, lockdown, or a security module that accepts only files.
            Err(Errno::EKEYREJECTED | Errno::EPERM | Errno::EACCES) => REFUSED.store(true, Ordering::Relaxed),
            result => return result,
        }
    }
    finit_module(file, parameters, ModuleInitFlags::empty())
}

/// Whether the kernel demands signatures, as far as is known.
fn is_needed() -> bool {
    static IS_ENFORCED: OnceLock<bool> = OnceLock::new();
    REFUSED.load(Ordering::Relaxed)
        || *IS_ENFORCED.get_or_init(|| fs::read_to_string(ENFORCED).is_ok_and(|text| text.trim() != "N"))
}

/// A signed module without its signature, mapped: only the kernel reads it.
struct Unsigned {
    start: NonNull<c_void>,
    length: NonZeroUsize,
}

impl Unsigned {
    /// `None` for a module without a signature.
    fn of(file: &File) -> Option<Self> {
        let length = NonZeroUsize::new(usize::try_from(length_without_signature(file)?).ok()?)?;
        // SAFETY: a new private mapping, at an address that the kernel chooses, aliases nothing.
        let start = unsafe { mmap(None, length, ProtFlags::PROT_READ, MapFlags::MAP_PRIVATE, file, 0) };
        Some(Self { start: start.ok()?, length })
    }

    fn bytes(&self) -> &[u8] {
        // SAFETY: the mapping has `length` bytes and lives as long as `self`; nobody writes to a module of the initrd.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr().cast(), self.length.get()) }
    }
}

impl Drop for Unsigned {
    fn drop(&mut self) {
        // SAFETY: the mapping was made in `of`, and `bytes` borrows `self`.
        let _ = unsafe { munmap(self.start, self.length.get()) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::elf::signature_trailer;
    use std::io::Write;

    #[test]
    fn only_the_signature_is_left_out() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"a module").unwrap();
        assert!(Unsigned::of(&file).is_none(), "without a signature");
        file.write_all(b"signature").unwrap();
        file.write_all(&signature_trailer(9)).unwrap();
        assert_eq!(Unsigned::of(&file).unwrap().bytes(), b"a module");
    }
}
