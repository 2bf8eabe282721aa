//! The command line of `boot`.

use crate::cli::arguments::{DEFAULT_LOCK, duration};
use crate::vm::accel::Choice;
use crate::vm::volume::Volume;
use clap::Args;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub(crate) const BOOT_HELP: &str = "\
Examples:
  host-builder boot --root DIR -- uname -a
  host-builder boot --root root.ext4 --vfio 0000:01:00.0 -- nvidia-smi -L
  host-builder boot --root root.ext4 --config config.json --volume data.ext4:/data:ro

In another terminal: host-builder status unix:out/vsock.sock --wait ready

Exit codes: the program's exit code; 128 plus the number of the signal that ended it; 0 if the container powered the guest off.
Otherwise: 125 the guest could not be started, 250 the boot failed, 251 the guest's kernel panicked, 252 the guest ended without
a reason, 253 --timeout expired, 254 the guest was ended from this terminal. The last line of output states the reason.";

/// Arguments of `boot`.
#[derive(Debug, Args)]
pub struct Boot {
    /// Container root: a disk image (ext4, EROFS or SquashFS), or a directory, which is packed into
    /// an EROFS image.
    #[arg(long, value_name = "DISK|DIR")]
    pub root: PathBuf,
    /// The initrd.
    #[arg(long, value_name = "FILE", default_value = "out/initrd.img")]
    pub initrd: PathBuf,
    /// The kernel image.
    #[arg(long, value_name = "FILE", default_value = "out/vmlinuz")]
    pub kernel: PathBuf,
    /// Lock file. It names the QEMU to use.
    #[arg(long, value_name = "FILE", default_value = DEFAULT_LOCK)]
    pub lock: PathBuf,
    /// Profile that the lock was resolved from: a built-in name, KERNEL+DRIVER, or a file [default: the name in the lock].
    #[arg(long, value_name = "NAME|FILE")]
    pub profile: Option<String>,
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
    /// Disk image for the container's writes. Without it, writes go to memory.
    #[arg(long, value_name = "DISK")]
    pub upper: Option<PathBuf>,
    /// Driver disk of an initrd built with --payload disk [default: driver.erofs in the directory
    /// of the initrd].
    #[arg(long, value_name = "DISK")]
    pub payload_disk: Option<PathBuf>,
    /// The guest's config.json, from which a config disk is made, or a config disk.
    #[arg(long, value_name = "FILE|DISK")]
    pub config: Option<PathBuf>,
    /// Disk image with a file system to mount at PATH in the container; `:ro`: read-only. May be
    /// given more than once.
    #[arg(long, value_name = "DISK:PATH[:ro]")]
    pub volume: Vec<Volume>,
    /// Text to append to the kernel command line.
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    pub append: Option<String>,
    /// Hybrid vsock socket, for `status unix:PATH` [default: out/vsock.sock if there is no
    /// /dev/vhost-vsock].
    #[arg(long, value_name = "PATH")]
    pub uds: Option<PathBuf>,
    /// vsock context id of the guest, 3 or more [default: derived from the process id].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(3..0xffff_ffff))]
    pub cid: Option<u32>,
    /// Accelerator. auto: kvm if a test guest runs on it, else tcg.
    #[arg(long, value_enum, default_value = "auto")]
    pub accel: Choice,
    /// End the guest after this time: a number of seconds, or a number with a unit, such as 10m.
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub timeout: Option<Duration>,
    /// File for the complete console output.
    #[arg(long, value_name = "FILE", default_value = "out/console.log")]
    pub console: PathBuf,
    /// Start the guest even if it has too little memory, or a kernel that does not match the
    /// initrd.
    #[arg(long)]
    pub force: bool,
    /// Also show the kernel's console lines.
    #[arg(long, short)]
    pub verbose: bool,
    /// Print only errors and the program's output.
    #[arg(long, short, conflicts_with = "verbose")]
    pub quiet: bool,
    /// Print how the guest ended as JSON to standard output. The console goes to standard error.
    #[arg(long)]
    pub json: bool,
    /// The container's command. It is appended to the kernel command line.
    #[arg(last = true, value_name = "COMMAND")]
    pub command: Vec<String>,
}

impl Boot {
    /// Addresses and sockets of the GPUs that the guest gets.
    pub fn gpus(&self) -> Vec<&Path> {
        let own = self.vfio.iter().map(Path::new);
        own.chain(self.vfio_user.iter().map(PathBuf::as_path)).collect()
    }
}
