//! The command line of `verify`.

use clap::Args;
use std::path::PathBuf;

pub(super) const VERIFY_HELP: &str = "\
Examples:
  host-builder verify out/initrd.img
  host-builder verify out/initrd.img --lock initrd.lock
  host-builder verify out/initrd.img --payload out/driver.img
  host-builder verify out/initrd.img --sha256 $(cat initrd.sha256)

Exit codes: 0 all as stated, 1 something differs, 2 not an initramfs, or one without a manifest of this tool.";

/// Arguments of `verify`.
#[derive(Debug, Args)]
pub struct Verify {
    /// The image.
    pub image: PathBuf,
    /// Lock that the image must have been made from: every package, the kernel, the driver and the profile. Files are compared with those of the
    /// packages that are in the cache; of others it is said that they are unchecked.
    #[arg(long, value_name = "FILE")]
    pub lock: Option<PathBuf>,
    /// Directory of `pins vendor`, for packages that are not in the cache: files are compared with those of their packages.
    #[arg(long, value_name = "DIR", requires = "lock")]
    pub mirror: Option<PathBuf>,
    /// Payload disk that belongs to the image: its size, its file system and every file in it, its hash tree.
    #[arg(long, value_name = "DISK")]
    pub payload: Option<PathBuf>,
    /// SHA-256 that the image must have, from a place that an attacker cannot change. Without it, what is found is damage: who can write the
    /// image can write its manifest.
    #[arg(long, value_name = "DIGEST")]
    pub sha256: Option<String>,
    /// The program that is to be PID 1, where it is not the one that this tool carries.
    #[arg(long, value_name = "FILE")]
    pub guest_init: Option<PathBuf>,
    /// Print the differences as JSON on standard output.
    #[arg(long)]
    pub json: bool,
}
