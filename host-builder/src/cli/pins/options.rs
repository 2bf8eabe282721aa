//! The command line of `pins`.

use crate::cli::{AccessArgs, DEFAULT_LOCK};
use crate::pins::profile;
use clap::{Args, Subcommand};
use std::path::PathBuf;

pub(crate) const PINS_HELP: &str = "\
Examples:
  host-builder pins list
  host-builder pins resolve --profile ch-6.12.8-kernel-2-20251211 --lock ch.lock
  host-builder pins update --driver 550.x
  host-builder pins verify
  host-builder pins vendor mirror/ && host-builder build-initrd --offline --mirror mirror/

Exit codes: 0 good, 1 the answer is no (verify: something differs or is no longer offered), 2 usage or failure.";

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
    /// Show which kernels and drivers there are: profiles, their CUDA version, and what of them is here.
    List(List),
    /// Show one profile and its lock: every artifact with version, source, size and digest.
    Show(Show),
    /// Make a lock, or make it anew, and show what changes.
    ///
    /// What nobody gives a digest for is fetched, and its digest recorded: that is said, so that it can be compared. A
    /// driver that `pins update` chose stays chosen.
    Resolve(Resolve),
    /// Choose another driver, or another kernel of a release page: resolve, check that all fits, show what changes.
    ///
    /// Modules, their source, firmware and libraries must be offered in the very same version, and the source must fit
    /// the kernel; otherwise nothing is written. `550.x` is the newest of that branch that is offered whole.
    Update(Update),
    /// Hash everything again, compare what the cache keeps unpacked of it, and ask the sources whether they still offer it.
    ///
    /// Modules and images that were made here are not compared: they are made from what is.
    Verify(Verify),
    /// Write a profile from addresses or files.
    ///
    /// An address is https://…, http://…, host:/ (the driver installed there) or a path; #sha256=HEX behind it states the
    /// digest. What kind of archive it is its content says. {driver}, {kernel} and {arch} are replaced.
    Add(Box<Add>),
    /// Put everything that the lock names into a directory, for --mirror.
    ///
    /// The directory gets sha256/DIGEST for every artifact, SHA256SUMS for sha256sum -c, and for the profile its lock and
    /// a list of names. Several locks may share one.
    Vendor(Vendor),
}

/// Which profile and which lock.
#[derive(Debug, Args)]
pub struct Which {
    /// Profile: a name that the tool carries, or a file.
    #[arg(long, value_name = "NAME|FILE", default_value = profile::DEFAULT)]
    pub profile: String,
    /// Lock file.
    #[arg(long, value_name = "FILE", default_value = DEFAULT_LOCK)]
    pub lock: PathBuf,
}

/// How to say it.
#[derive(Debug, Clone, Copy, Args)]
pub struct How {
    /// Print the result as JSON on standard output.
    #[arg(long)]
    pub json: bool,
    /// Print nothing but errors.
    #[arg(long, short)]
    pub quiet: bool,
}

/// Arguments of `pins list`.
#[derive(Debug, Args)]
pub struct List {
    /// More profiles, as files. May be given more than once.
    #[arg(long, value_name = "FILE")]
    pub profile: Vec<String>,
    /// Lock files, of whichever profiles they are. May be given more than once.
    #[arg(long, value_name = "FILE", default_value = DEFAULT_LOCK)]
    pub lock: Vec<PathBuf>,
    /// Print the result as JSON on standard output.
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `pins show`.
#[derive(Debug, Args)]
pub struct Show {
    /// Which profile and lock.
    #[command(flatten)]
    pub which: Which,
    /// Print the result as JSON on standard output.
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `pins resolve`.
#[derive(Debug, Args)]
pub struct Resolve {
    /// Which profile and lock.
    #[command(flatten)]
    pub which: Which,
    /// Show what would change, write nothing.
    #[arg(long)]
    pub dry_run: bool,
    /// Where artifacts may come from.
    #[command(flatten)]
    pub access: AccessArgs,
    /// How to say it.
    #[command(flatten)]
    pub how: How,
}

/// Arguments of `pins update`.
#[derive(Debug, Args)]
#[group(id = "choice", required = true, multiple = true, args = ["driver", "kernel"])]
pub struct Update {
    /// Version of the driver, to the last digit, or a branch such as 550.x.
    #[arg(long, value_name = "VERSION")]
    pub driver: Option<String>,
    /// What {kernel} stands for in the profile's addresses, such as a release's tag.
    #[arg(long, value_name = "VERSION")]
    pub kernel: Option<String>,
    /// The rest is as for `resolve`.
    #[command(flatten)]
    pub resolve: Resolve,
}

/// Arguments of `pins verify`.
#[derive(Debug, Args)]
pub struct Verify {
    /// Which profile and lock.
    #[command(flatten)]
    pub which: Which,
    /// Where artifacts may come from; --offline asks no source.
    #[command(flatten)]
    pub access: AccessArgs,
    /// How to say it.
    #[command(flatten)]
    pub how: How,
}

/// Arguments of `pins add`.
#[derive(Debug, Args)]
pub struct Add {
    /// Name of the profile.
    #[arg(value_name = "NAME")]
    pub name: String,
    /// Version of the driver, to the last digit.
    #[arg(long, value_name = "VERSION")]
    pub driver: String,
    /// Kernel image, or an archive with it and perhaps its modules.
    #[arg(long, value_name = "URL|PATH")]
    pub kernel: String,
    /// Archive with the kernel's modules, where they are apart from the image.
    #[arg(long, value_name = "URL|PATH")]
    pub kernel_modules: Option<String>,
    /// Archive with the GPU's modules, built for that kernel (lib/modules/RELEASE/…/nvidia*.ko).
    #[arg(long, value_name = "URL|PATH")]
    pub gpu_modules: String,
    /// Archive with the driver's libraries and programs, or NVIDIA's installer. May be given more than once.
    #[arg(long, value_name = "URL|PATH", required = true)]
    pub driver_files: Vec<String>,
    /// Archive with GSP firmware, or NVIDIA's installer, or the word none.
    #[arg(long, value_name = "URL|PATH|none")]
    pub firmware: Option<String>,
    /// What {kernel} stands for in addresses.
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
    /// What of them the kernel has built in, where it brings no modules.builtin along [default: all of --modules
    /// without --kernel-modules].
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    pub builtin: Vec<String>,
    /// Day of the driver's release.
    #[arg(long, value_name = "YYYY-MM-DD")]
    pub released: Option<String>,
    /// Architecture, as `uname -m` says it.
    #[arg(long, value_name = "ARCH", default_value = "x86_64")]
    pub arch: String,
    /// The profile [default: NAME.toml]. One that is there is not replaced.
    #[arg(long, short, value_name = "FILE")]
    pub output: Option<PathBuf>,
}

/// Arguments of `pins vendor`.
#[derive(Debug, Args)]
pub struct Vendor {
    /// The directory; made when it is not there.
    #[arg(value_name = "DIR")]
    pub directory: PathBuf,
    /// Which profile and lock.
    #[command(flatten)]
    pub which: Which,
    /// Where artifacts may come from.
    #[command(flatten)]
    pub access: AccessArgs,
    /// How to say it.
    #[command(flatten)]
    pub how: How,
}
