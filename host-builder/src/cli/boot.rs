//! The command line of `boot`.

use super::DEFAULT_LOCK;
use crate::profile;
use crate::vm::accel::Choice;
use clap::Args;
use std::path::PathBuf;

pub(super) const BOOT_HELP: &str = "\
Examples:
  host-builder boot --root DIR -- nvidia-smi
  host-builder boot --root root.ext4 --vfio 0000:01:00.0 -- nvidia-smi -L
  host-builder boot --root root.ext4 --upper writes.ext4 --append 'gpu_initrd.gpu=optional'

Beside it: host-builder status unix:out/vsock.sock --wait ready

Exit codes: 0 the guest has ended (whatever its program returned: ask status), 2 failure or interrupt.";

/// Arguments of `boot`.
#[derive(Debug, Args)]
pub struct Boot {
    /// Container root: a disk image (ext4, EROFS or SquashFS), or a directory, of which an EROFS image is made.
    #[arg(long, value_name = "DISK|DIR")]
    pub root: PathBuf,
    /// The initrd.
    #[arg(long, value_name = "FILE", default_value = "out/initrd.img")]
    pub initrd: PathBuf,
    /// The kernel image.
    #[arg(long, value_name = "FILE", default_value = "out/vmlinuz")]
    pub kernel: PathBuf,
    /// Lock file, which names the QEMU to use.
    #[arg(long, value_name = "FILE", default_value = DEFAULT_LOCK)]
    pub lock: PathBuf,
    /// Profile that the lock was made from: a name that the tool carries, or a file.
    #[arg(long, value_name = "NAME|FILE", default_value = profile::DEFAULT)]
    pub profile: String,
    /// Memory of the guest.
    #[arg(long, value_name = "MIB", default_value_t = 1024, value_parser = clap::value_parser!(u32).range(64..))]
    pub memory: u32,
    /// Virtual CPUs of the guest.
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=255))]
    pub cpus: u32,
    /// GPU of this machine, bound to vfio-pci. May be given more than once.
    #[arg(long, value_name = "BDF")]
    pub vfio: Vec<String>,
    /// GPU served on a vfio-user socket. May be given more than once.
    #[arg(long, value_name = "SOCKET")]
    pub vfio_user: Vec<PathBuf>,
    /// Disk image that takes the container's writes; without it they go to memory.
    #[arg(long, value_name = "DISK")]
    pub upper: Option<PathBuf>,
    /// The driver's disk, of an initrd made with --payload disk [default: out/driver.erofs, for such an initrd].
    #[arg(long, value_name = "DISK")]
    pub payload_disk: Option<PathBuf>,
    /// Config disk, with a config.json.
    #[arg(long, value_name = "DISK")]
    pub config: Option<PathBuf>,
    /// More for the kernel command line.
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    pub append: Option<String>,
    /// Hybrid vsock socket, for `status unix:PATH` [default: out/vsock.sock, where there is no /dev/vhost-vsock].
    #[arg(long, value_name = "PATH")]
    pub uds: Option<PathBuf>,
    /// vsock context id of the guest, 3 or more [default: one that belongs to this process].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(3..0xffff_ffff))]
    pub cid: Option<u32>,
    /// What executes the guest. auto: KVM if a test guest runs on it, else tcg.
    #[arg(long, value_enum, default_value = "auto")]
    pub accel: Choice,
    /// Print nothing but errors and the guest's console.
    #[arg(long, short)]
    pub quiet: bool,
    /// The container's command; it goes to the end of the kernel command line.
    #[arg(last = true, value_name = "COMMAND")]
    pub command: Vec<String>,
}
