//! dm-verity for the driver's disk: the kernel checks each block when it is read, against the root hash in the manifest.
//!
//! Source: include/uapi/linux/dm-ioctl.h, Documentation/admin-guide/device-mapper/verity.rst.

use image::manifest::{Erofs, Verity};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

const CONTROL: &str = "/dev/mapper/control";
/// Name of the device-mapper device.
const NAME: &[u8] = b"gpu-initrd-payload";
/// `sizeof(struct dm_ioctl)` and the places of its fields.
const HEADER: usize = 312;
const SIZE_AT: usize = 12;
const DATA_AT: usize = 16;
const COUNT_AT: usize = 20;
const FLAGS_AT: usize = 28;
const DEVICE_AT: usize = 40;
const NAME_AT: usize = 48;
/// `sizeof(struct dm_target_spec)`.
const TARGET: usize = 40;
const BUFFER: usize = 4096;
const DM_READONLY_FLAG: u32 = 1;
const SECTOR: u64 = 512;

/// Requests, `_IOWR(0xfd, number, struct dm_ioctl)`.
#[derive(Clone, Copy)]
enum Request {
    Create = 3,
    Remove = 4,
    /// Without a flag: resume.
    Suspend = 6,
    Load = 9,
    Status = 12,
}

/// Opens a verified, read-only view of the first bytes of `disk`.
///
/// # Errors
/// See [`is_absent`]; with any other error the kernel refuses the disk or the hash tree.
pub(crate) fn open(disk: &Path, erofs: &Erofs, verity: &Verity) -> io::Result<PathBuf> {
    super::modules::request("dm_verity");
    let control = OpenOptions::new().read(true).write(true).open(CONTROL)?;
    let created = call(&control, Request::Create, &[])?;
    let device = u64::from_ne_bytes(field(&created, DEVICE_AT));
    let started = call(&control, Request::Load, &target(disk, erofs, verity))
        .and_then(|_| call(&control, Request::Suspend, &[]));
    if let Err(error) = started {
        // The next attempt needs the name.
        let _ = call(&control, Request::Remove, &[]);
        return Err(error);
    }
    // `huge_encode_dev`: the minor is in the low byte and from bit 20 on.
    let minor = (device & 0xff) | ((device >> 12) & 0xf_ff00);
    Ok(super::disks::node("dm-", u32::try_from(minor).map_err(io::Error::other)?))
}

/// Removes the view, if there is one, so that another disk can be tried.
pub(crate) fn close() {
    if let Ok(control) = OpenOptions::new().read(true).write(true).open(CONTROL) {
        let _ = call(&control, Request::Remove, &[]);
    }
}

/// Returns whether the kernel has no dm-verity (no device-mapper, or no such target), as opposed to refusing this disk.
pub(crate) fn is_absent(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENXIO | libc::ENODEV)) || unknown_target(error)
}

/// Returns whether the kernel does not know the target. EINVAL is also the error for an invalid table, so this checks
/// whether dm_verity is loaded.
fn unknown_target(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EINVAL) && !crate::kernel::modules::is_loaded("dm_verity")
}

/// Returns whether a block that was read did not match the hash tree.
pub(crate) fn is_corrupted() -> bool {
    let Ok(control) = OpenOptions::new().read(true).write(true).open(CONTROL) else { return false };
    let Ok(reply) = call(&control, Request::Status, &[]) else { return false };
    let at = u32::from_ne_bytes(field(&reply, DATA_AT)) as usize + TARGET;
    reply.get(at) == Some(&b'C')
}

/// Returns the only line of the table: a target for the whole image.
fn target(disk: &Path, erofs: &Erofs, verity: &Verity) -> Vec<u8> {
    let blocks = erofs.size / Verity::BLOCK;
    let parameters = format!(
        "1 {disk} {disk} {block} {block} {blocks} {blocks} sha256 {} {}",
        verity.root_hash,
        verity.salt,
        disk = disk.display(),
        block = Verity::BLOCK,
    );
    let mut bytes = vec![0; TARGET];
    bytes[8..16].copy_from_slice(&(erofs.size / SECTOR).to_ne_bytes());
    bytes[24..30].copy_from_slice(b"verity");
    bytes.extend_from_slice(parameters.as_bytes());
    bytes.push(0);
    bytes
}

/// Sends one request about the device; `data` follows the header.
fn call(control: &File, request: Request, data: &[u8]) -> io::Result<Vec<u8>> {
    let mut buffer = vec![0_u8; BUFFER];
    let mut put = |at: usize, bytes: &[u8]| buffer[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, &4_u32.to_ne_bytes());
    put(SIZE_AT, &u32::try_from(BUFFER).map_err(io::Error::other)?.to_ne_bytes());
    put(DATA_AT, &u32::try_from(HEADER).map_err(io::Error::other)?.to_ne_bytes());
    put(COUNT_AT, &u32::from(!data.is_empty()).to_ne_bytes());
    let flags = if matches!(request, Request::Load) { DM_READONLY_FLAG } else { 0 };
    put(FLAGS_AT, &flags.to_ne_bytes());
    put(NAME_AT, NAME);
    if data.len() > BUFFER - HEADER {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    put(HEADER, data);
    let number = nix::request_code_readwrite!(0xfd, request as u8, HEADER);
    // SAFETY: the descriptor is open; the buffer is as long as it says it is, and the kernel writes no further.
    let result = unsafe { libc::ioctl(control.as_raw_fd(), number, buffer.as_mut_ptr()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(buffer) }
}

fn field<const N: usize>(buffer: &[u8], at: usize) -> [u8; N] {
    let mut bytes = [0; N];
    bytes.copy_from_slice(&buffer[at..at + N]);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::CStr;

    #[test]
    fn a_table_names_the_disk_twice_and_the_tree_behind_the_data() {
        let erofs = Erofs { uuid: String::new(), size: 3 * 4096, sha256: String::new() };
        let verity = Verity { root_hash: "ab".into(), salt: "cd".into(), disk_size: 1 << 21 };
        let bytes = target(Path::new("/dev/vdb"), &erofs, &verity);
        assert_eq!(u64::from_ne_bytes(field(&bytes, 8)), 24);
        let text = CStr::from_bytes_until_nul(&bytes[TARGET..]).unwrap().to_str().unwrap();
        assert_eq!(text, "1 /dev/vdb /dev/vdb 4096 4096 3 3 sha256 ab cd");
    }
}
