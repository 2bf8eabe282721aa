//! The command line of `build-initrd`.

use crate::build::pack::Compression;
use crate::build::payload;
use crate::cli::arguments::{AccessArgs, DEFAULT_LOCK, ProfileArgs};
use crate::kernel_modules::gpus::Asked;
use clap::Args;
use image::config::Control;
use std::path::PathBuf;

/// Default path of the driver's disk: `build-initrd` writes it, `boot` looks for it.
pub const DEFAULT_PAYLOAD_OUTPUT: &str = "out/driver.erofs";

/// Arguments of `build-initrd`.
#[derive(Debug, Args)]
pub struct BuildInitrd {
    /// Which kernel and driver.
    #[command(flatten)]
    pub profile: ProfileArgs,
    /// Lock file: read if it exists, otherwise written.
    #[arg(long, value_name = "FILE", default_value = DEFAULT_LOCK)]
    pub lock: PathBuf,
    /// Resolve the profile again, and replace the lock.
    #[arg(long)]
    pub update_lock: bool,
    /// Output file for the initrd.
    #[arg(long, short, value_name = "FILE", default_value = "out/initrd.img")]
    pub output: PathBuf,
    /// Output file for the kernel image.
    #[arg(long, value_name = "FILE", default_value = "out/vmlinuz")]
    pub kernel_output: PathBuf,
    /// Driver capabilities to pack: compute, utility, video, graphics, display, ngx, compat32, or
    /// all.
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "compute,utility")]
    pub capabilities: Vec<String>,
    /// GPUs to pack firmware for: names (h100, l4, rtx-4090), PCI ids (10de:2330), or host for the
    /// GPUs of this machine [default: all GPUs that the driver supports].
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    pub gpu: Vec<Asked>,
    /// How the initrd carries the driver's files.
    #[arg(long, value_enum, value_name = "HOW", default_value = "auto")]
    pub payload: payload::PayloadChoice,
    /// Compression of the EROFS image of the driver's files [default: zstd in the initrd if the
    /// kernel supports it, lz4hc on a disk].
    #[arg(long, value_enum, value_name = "HOW")]
    pub payload_compression: Option<payload::Compression>,
    /// Output file for the driver's disk, with --payload disk.
    #[arg(long, value_name = "FILE", default_value = DEFAULT_PAYLOAD_OUTPUT)]
    pub payload_output: PathBuf,
    /// Planned memory of the guests. It decides how the initrd carries the driver; an initrd that
    /// does not fit is an error.
    #[arg(long, value_name = "MIB", value_parser = clap::value_parser!(u32).range(32..))]
    pub guest_memory: Option<u32>,
    /// Highest level of requests that guests with this initrd accept: none (questions only), stop, or exec. Without it, the
    /// kernel command line alone decides (gpu_initrd.control).
    #[arg(long, value_name = "LEVEL", value_parser = control)]
    pub control: Option<Control>,
    /// Compression of the initrd: zstd, zstd:LEVEL (1 to 19), lz4, gzip, xz or none.
    #[arg(long, value_name = "HOW", default_value = "zstd")]
    pub compression: Compression,
    /// Program to use as PID 1 instead of the built-in guest-init, for its development.
    #[arg(long, value_name = "FILE")]
    pub guest_init: Option<PathBuf>,
    /// Make, check and print the plan; write nothing.
    #[arg(long)]
    pub dry_run: bool,
    /// Sources of artifacts.
    #[command(flatten)]
    pub access: AccessArgs,
    /// Print the result as JSON to standard output.
    #[arg(long)]
    pub json: bool,
    /// List every file, module and GPU in the report.
    #[arg(long, short)]
    pub verbose: bool,
    /// Print only errors.
    #[arg(long, short, conflicts_with = "verbose")]
    pub quiet: bool,
}

fn control(text: &str) -> Result<Control, String> {
    Control::named(text).ok_or_else(|| "expected none, stop or exec".into())
}
