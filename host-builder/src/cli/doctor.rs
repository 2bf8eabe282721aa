//! The command line of `doctor`.

use super::{AccessArgs, DEFAULT_LOCK};
use clap::Args;
use std::path::PathBuf;

pub(super) const DOCTOR_HELP: &str = "\
Examples:
  host-builder doctor
  host-builder doctor --gpu 0000:01:00.0 --guest-memory 65536
  host-builder doctor out/initrd.img
  host-builder doctor out/initrd.img --root root.ext4 --config config.json

Of a disk image nothing is mounted: debugfs, fsck.erofs or unsquashfs unpacks it, confined, from the packages of the lock
where they are in the cache or the mirror, else from this machine; where those cannot read the image, the packages are fetched.

Exit codes: 0 nothing failed (there may be warnings), 1 something failed, 2 usage, or it could not be found out.";

/// Arguments of `doctor`.
#[derive(Debug, Args)]
pub struct Doctor {
    /// Initrd of this tool: its driver's own list says which GPUs are supported [default: a built-in list of names].
    pub image: Option<PathBuf>,
    /// Container root, a disk image (ext4, EROFS or SquashFS) or a directory: it is looked at instead of the host.
    #[arg(long, value_name = "DISK|DIR", requires = "image", conflicts_with_all = ["gpu", "guest_memory"])]
    pub root: Option<PathBuf>,
    /// The container's config.json, whose environment says what it requires of the driver; or its config disk.
    #[arg(long, value_name = "FILE|DISK", requires = "root")]
    pub config: Option<PathBuf>,
    /// The GPU's PCI address; may be given more than once [default: all NVIDIA GPUs].
    #[arg(long, value_name = "BDF")]
    pub gpu: Vec<String>,
    /// Memory that the guest will have: locked memory, huge pages and address space are held against it.
    #[arg(long, value_name = "MIB", value_parser = clap::value_parser!(u64).range(1..=0xff_ffff_ffff))]
    pub guest_memory: Option<u64>,
    /// The driver's disk, of an initrd made with --payload disk [default: out/driver.erofs, where it is].
    #[arg(long, value_name = "DISK", requires = "image")]
    pub payload_disk: Option<PathBuf>,
    /// Lock whose packages have the programs that read disk images.
    #[arg(long, value_name = "FILE", default_value = DEFAULT_LOCK)]
    pub lock: PathBuf,
    /// Profile that the lock was made from: a name that the tool carries, or a file [default: the one that the lock names].
    #[arg(long, value_name = "NAME|FILE")]
    pub profile: Option<String>,
    /// Where those packages come from.
    #[command(flatten)]
    pub access: AccessArgs,
    /// Print the checks as JSON on standard output.
    #[arg(long)]
    pub json: bool,
}
