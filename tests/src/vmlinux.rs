//! The kernel as guests boot it here: unpacked, entered by its PVH note, as Firecracker and Cloud
//! Hypervisor do. An emulated processor needs about a second to unpack it, and the tests boot a
//! hundred guests. `host-builder boot` and its tests use the kernel as it is built.

use std::{
    collections::BTreeMap,
    fs,
    io::Read,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use host_builder::artifacts::cache::Cache;
use host_builder::artifacts::unpack::inflate;
use host_builder::common::digest::sha256;

use crate::RigError;

/// Unpacked kernels that are kept, 60 MB each: of the default profile, of Ubuntu, and those of an
/// earlier run.
const KEPT: usize = 4;

/// Where the header of a bzImage says what (Documentation/arch/x86/boot.rst).
const SETUP_SECTORS: usize = 0x1f1;
const MAGIC: (usize, &[u8]) = (0x202, b"HdrS");
const PAYLOAD_OFFSET: usize = 0x248;
const PAYLOAD_LENGTH: usize = 0x24c;
/// The unpacked size is stored after the compressed kernel.
const SIZE: usize = 4;

/// The unpacked form of a bzImage, made once.
pub fn of(kernel: &Path) -> Result<PathBuf, RigError> {
    static KNOWN: Mutex<BTreeMap<PathBuf, PathBuf>> = Mutex::new(BTreeMap::new());
    if let Some(made) = KNOWN.lock().unwrap_or_else(PoisonError::into_inner).get(kernel) {
        return Ok(made.clone());
    }
    let bytes = fs::read(kernel).map_err(|e| RigError::io("read", kernel, e))?;
    let cache = Cache::open()?;
    let dir = cache.derived("rig/kernels", &sha256(&bytes), |dir| {
        let place = dir.join("vmlinux");
        let unpacked = unpack(&bytes, kernel);
        host_builder::common::error::Doing::doing(fs::write(&place, unpacked), "writing", &place)
    })?;
    cache.forget("rig/kernels", KEPT)?;
    let made = dir.join("vmlinux");
    KNOWN.lock().unwrap_or_else(PoisonError::into_inner).insert(kernel.to_owned(), made.clone());
    Ok(made)
}

/// Panics if it is not a bzImage, as every kernel of the tests is.
fn unpack(kernel: &[u8], path: &Path) -> Vec<u8> {
    let (at, magic) = MAGIC;
    assert_eq!(&kernel[at..at + magic.len()], magic, "{}: expected a bzImage", path.display());
    let number = |at: usize| u32::from_le_bytes(kernel[at..at + 4].try_into().expect("four bytes")) as usize;
    let begin = (usize::from(kernel[SETUP_SECTORS]) + 1) * 512 + number(PAYLOAD_OFFSET);
    let payload = &kernel[begin..begin + number(PAYLOAD_LENGTH) - SIZE];
    let mut unpacked = Vec::new();
    let mut stream = inflate(payload, path).expect("a compression that kernels have");
    stream.read_to_end(&mut unpacked).expect("a whole stream");
    assert!(unpacked.starts_with(b"\x7fELF"), "{}: expected an ELF file in it", path.display());
    unpacked
}
