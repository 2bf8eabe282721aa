//! The command line of `pins`.

use crate::cli::arguments::{AccessArgs, DEFAULT_LOCK, profile_or_locks};
use crate::common::error::{Error, Result};
use crate::pins::lock::Lock;
use crate::pins::profile::Profile;
use clap::{Args, Subcommand};
use std::path::PathBuf;

pub(crate) const PINS_HELP: &str = "\
Examples:
  host-builder pins list
  host-builder pins resolve --profile ch-6.12.8-kernel-2-20251211 --lock ch.lock
  host-builder pins update --driver 550.x
  host-builder pins verify
  host-builder pins vendor mirror/ && host-builder build-initrd --offline --mirror mirror/

Exit codes: 0 success, 1 verify: something differs or is no longer offered, 2 usage error or failure.";

/// Arguments of `pins`.
#[derive(Debug, Args)]
pub struct Pins {
    /// What to do with the pins.
    #[command(subcommand)]
    pub command: PinsCommand,
}

/// What to do with the pins.
#[derive(Debug, Subcommand)]
pub enum PinsCommand {
    /// List the available kernels and drivers: profiles, their CUDA versions, and how many of their
    /// artifacts are cached.
    List(List),
    /// Show a profile and its lock: every artifact with version, source, size and digest.
    Show(Show),
    /// Create or update a lock, and show what changes.
    ///
    /// An artifact without a published digest is fetched, and its digest is recorded and reported,
    /// so that you can compare it. A driver that was chosen with `pins update` is kept.
    Resolve(Resolve),
    /// Choose another driver, or another kernel of a release page: resolve, check compatibility,
    /// and show what changes.
    ///
    /// Modules, their source, firmware and libraries must be available in exactly the same version,
    /// and the source must be compatible with the kernel; otherwise nothing is written. `550.x`
    /// selects the newest version of that branch for which everything is available.
    Update(Update),
    /// Hash all cached artifacts again, compare their unpacked copies, and ask the sources whether
    /// they still offer them.
    ///
    /// Modules and images that were built on this machine are not compared. They are built from the
    /// artifacts that are.
    Verify(Verify),
    /// Write a profile from addresses or files.
    ///
    /// An address is https://…, http://…, host:/ (the driver installed below that directory) or a
    /// path. Append #sha256=HEX to state the digest. The archive type is detected from the content.
    /// {driver}, {kernel} and {arch} are replaced.
    Add(Box<Add>),
    /// Copy all artifacts of the lock into a directory, for --mirror.
    ///
    /// The directory receives sha256/DIGEST for every artifact, SHA256SUMS for sha256sum -c, and
    /// for the profile its lock and a list of names. Several locks may share a directory.
    Vendor(Vendor),
}

/// Which profile and which lock.
#[derive(Debug, Args)]
pub struct Which {
    /// Profile: a built-in name, KERNEL+DRIVER, or a file [default: that of the lock, else debian-13].
    #[arg(long, value_name = "NAME|FILE")]
    pub profile: Option<String>,
    /// Lock file.
    #[arg(long, value_name = "FILE", default_value = DEFAULT_LOCK)]
    pub lock: PathBuf,
}

impl Which {
    /// Loads the profile and its lock. The lock must exist and belong to the profile.
    pub fn load(&self) -> Result<(Profile, Lock)> {
        let (profile, text) = profile_or_locks(self.profile.as_deref(), &self.lock)?;
        let lock = Lock::read(&self.lock)?.ok_or_else(|| {
            Error::new(format!("{}: no such lock", self.lock.display()))
                .hint("create it: host-builder pins resolve; or pass an existing one: --lock FILE")
        })?;
        lock.check_profile(&profile.name, &text, &self.lock)?;
        Ok((profile, lock))
    }
}

/// Output options.
#[derive(Debug, Clone, Copy, Args)]
pub struct How {
    /// Print the result as JSON to standard output.
    #[arg(long)]
    pub json: bool,
    /// Print only errors.
    #[arg(long, short)]
    pub quiet: bool,
}

/// Arguments of `pins list`.
#[derive(Debug, Args)]
pub struct List {
    /// Additional profile file. May be given more than once.
    #[arg(long, value_name = "FILE")]
    pub profile: Vec<String>,
    /// Lock file of any of the profiles. May be given more than once.
    #[arg(long, value_name = "FILE", default_value = DEFAULT_LOCK)]
    pub lock: Vec<PathBuf>,
    /// List every kernel with every driver instead, and whether they work together.
    #[arg(long, conflicts_with_all = ["profile", "lock"])]
    pub pairs: bool,
    /// Print the result as JSON to standard output.
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `pins show`.
#[derive(Debug, Args)]
pub struct Show {
    /// Which profile and lock.
    #[command(flatten)]
    pub which: Which,
    /// Print the result as JSON to standard output.
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `pins resolve`.
#[derive(Debug, Args)]
pub struct Resolve {
    /// Which profile and lock.
    #[command(flatten)]
    pub which: Which,
    /// Show what would change, but write nothing.
    #[arg(long)]
    pub dry_run: bool,
    /// Where artifacts may come from.
    #[command(flatten)]
    pub access: AccessArgs,
    /// Output options.
    #[command(flatten)]
    pub how: How,
}

/// Arguments of `pins update`.
#[derive(Debug, Args)]
#[group(id = "choice", required = true, multiple = true, args = ["driver", "kernel"])]
pub struct Update {
    /// Full version of the driver, or a branch such as 550.x.
    #[arg(long, value_name = "VERSION")]
    pub driver: Option<String>,
    /// Value of {kernel} in the profile's addresses, such as the tag of a release.
    #[arg(long, value_name = "VERSION")]
    pub kernel: Option<String>,
    /// Arguments of `resolve`.
    #[command(flatten)]
    pub resolve: Resolve,
}

/// Arguments of `pins verify`.
#[derive(Debug, Args)]
pub struct Verify {
    /// Which profile and lock.
    #[command(flatten)]
    pub which: Which,
    /// Where artifacts may come from. With --offline, no source is asked.
    #[command(flatten)]
    pub access: AccessArgs,
    /// Output options.
    #[command(flatten)]
    pub how: How,
}

/// Arguments of `pins add`.
#[derive(Debug, Args)]
pub struct Add {
    /// Name of the profile.
    #[arg(value_name = "NAME")]
    pub name: String,
    /// Full version of the driver.
    #[arg(long, value_name = "VERSION")]
    pub driver: String,
    /// Kernel image, or an archive that contains it and optionally its modules.
    #[arg(long, value_name = "URL|PATH")]
    pub kernel: String,
    /// Archive with the kernel's modules, if they are separate from the kernel image.
    #[arg(long, value_name = "URL|PATH")]
    pub kernel_modules: Option<String>,
    /// Archive with the GPU's modules, built for that kernel (lib/modules/RELEASE/…/nvidia*.ko).
    #[arg(long, value_name = "URL|PATH")]
    pub gpu_modules: String,
    /// Archive with the driver's libraries and programs, or NVIDIA's installer. May be given more
    /// than once.
    #[arg(long, value_name = "URL|PATH", required = true)]
    pub driver_files: Vec<String>,
    /// Archive with GSP firmware, NVIDIA's installer, or the word none.
    #[arg(long, value_name = "URL|PATH|none")]
    pub firmware: Option<String>,
    /// Value of {kernel} in addresses.
    #[arg(long, value_name = "VERSION")]
    pub kernel_version: Option<String>,
    /// Kernel modules that every boot needs.
    #[arg(
        long,
        value_name = "LIST",
        value_delimiter = ',',
        default_value = "virtio_blk,ext4,overlay,vmw_vsock_virtio_transport"
    )]
    pub modules: Vec<String>,
    /// Which of them are built into the kernel, if it has no modules.builtin [default: all of
    /// --modules, unless --kernel-modules is given].
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    pub builtin: Vec<String>,
    /// Release date of the driver.
    #[arg(long, value_name = "YYYY-MM-DD")]
    pub released: Option<String>,
    /// Architecture, as `uname -m` prints it.
    #[arg(long, value_name = "ARCH", default_value = "x86_64")]
    pub arch: String,
    /// File for the profile [default: NAME.toml]. An existing file is not replaced.
    #[arg(long, short, value_name = "FILE")]
    pub output: Option<PathBuf>,
}

/// Arguments of `pins vendor`.
#[derive(Debug, Args)]
pub struct Vendor {
    /// The directory. It is created if it does not exist.
    #[arg(value_name = "DIR")]
    pub directory: PathBuf,
    /// Which profile and lock.
    #[command(flatten)]
    pub which: Which,
    /// Where artifacts may come from.
    #[command(flatten)]
    pub access: AccessArgs,
    /// Output options.
    #[command(flatten)]
    pub how: How,
}
