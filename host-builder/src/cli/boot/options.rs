//! The command line of `boot`.

use crate::cli::DEFAULT_LOCK;
use crate::cli::arguments::duration;
use crate::pins::profile;
use crate::vm::accel::Choice;
use crate::vm::volume::Volume;
use clap::Args;
use std::path::PathBuf;
use std::time::Duration;

pub(crate) const BOOT_HELP: &str = "\
Examples:
  host-builder boot --root DIR -- uname -a
  host-builder boot --root root.ext4 --vfio 0000:01:00.0 -- nvidia-smi -L
  host-builder boot --root root.ext4 --config config.json --volume data.ext4:/data:ro

Beside it: host-builder status unix:out/vsock.sock --wait ready

Exit codes: the program's own, 128 and the signal that ended it, 0 where the container powered the guest off. Where there is none:
125 the guest could not be started, 250 the boot failed, 251 its kernel panicked, 252 it ended without a word, 253 --timeout was over,
254 it was ended from here. The last line says which.";

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
    /// The driver's disk, of an initrd made with --payload disk [default: driver.erofs beside such an initrd].
    #[arg(long, value_name = "DISK")]
    pub payload_disk: Option<PathBuf>,
    /// The guest's config.json, of which a config disk is made, or such a disk.
    #[arg(long, value_name = "FILE|DISK")]
    pub config: Option<PathBuf>,
    /// Disk image with a file system that the container has at PATH; `:ro`: read-only. May be given more than once.
    #[arg(long, value_name = "DISK:PATH[:ro]")]
    pub volume: Vec<Volume>,
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
    /// End the guest after so long: a number of seconds, or with a unit, such as 10m.
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub timeout: Option<Duration>,
    /// File for the whole console.
    #[arg(long, value_name = "FILE", default_value = "out/console.log")]
    pub console: PathBuf,
    /// Start the guest although it has too little memory or another kernel than the initrd's.
    #[arg(long)]
    pub force: bool,
    /// Show the kernel's lines, too.
    #[arg(long, short)]
    pub verbose: bool,
    /// Print nothing but errors and what the program prints.
    #[arg(long, short, conflicts_with = "verbose")]
    pub quiet: bool,
    /// Say how it ended as JSON on standard output; the console goes to standard error.
    #[arg(long)]
    pub json: bool,
    /// The container's command; it goes to the end of the kernel command line.
    #[arg(last = true, value_name = "COMMAND")]
    pub command: Vec<String>,
}
