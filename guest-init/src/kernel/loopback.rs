//! Attaches a loop device to a file, for kernels that cannot mount a file directly.
//!
//! Source: include/uapi/linux/loop.h (`LOOP_CONFIGURE`, Linux 5.8).

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

const CONTROL: &str = "/dev/loop-control";
const LOOP_CTL_GET_FREE: libc::Ioctl = 0x4c82;
const LOOP_CONFIGURE: libc::Ioctl = 0x4c0a;
/// `sizeof(struct loop_config)`: descriptor, block size, `struct loop_info64`, eight reserved words.
const CONFIG_BYTES: usize = 304;
/// `info.lo_flags` in it.
const FLAGS_AT: usize = 60;
const READ_ONLY: u32 = 1;

/// Attaches a free loop device to `file`, read-only, and returns its device node.
pub(crate) fn attach(file: &Path) -> io::Result<PathBuf> {
    super::modules::request("loop");
    let named = |what: &str, error: io::Error| io::Error::new(error.kind(), format!("{what}: {error}"));
    let control = File::open(CONTROL).map_err(|error| named(CONTROL, error))?;
    // SAFETY: the descriptor is open, and this request takes no argument.
    let number = unsafe { libc::ioctl(control.as_raw_fd(), LOOP_CTL_GET_FREE) };
    let number =
        u32::try_from(number).map_err(|_| named("finding a free loop device", io::Error::last_os_error()))?;
    let path = super::disks::node("loop", number);
    let device =
        OpenOptions::new().read(true).open(&path).map_err(|error| named(&path.to_string_lossy(), error))?;
    let file = File::open(file)?;
    let mut config = [0_u8; CONFIG_BYTES];
    config[..4].copy_from_slice(&file.as_raw_fd().to_ne_bytes());
    config[FLAGS_AT..FLAGS_AT + 4].copy_from_slice(&READ_ONLY.to_ne_bytes());
    // SAFETY: both descriptors are open; the buffer has the size of `struct loop_config`, which the kernel only reads.
    if unsafe { libc::ioctl(device.as_raw_fd(), LOOP_CONFIGURE, config.as_ptr()) } < 0 {
        return Err(named("LOOP_CONFIGURE", io::Error::last_os_error()));
    }
    Ok(path)
}
