//! The command line of `build-initrd`.

use crate::build::pack::Compression;
use crate::build::payload;
use crate::cli::{AccessArgs, DEFAULT_LOCK};
use crate::kernel_modules::gpus::Asked;
use crate::pins::profile;
use clap::Args;
use std::path::PathBuf;

/// Where `build-initrd` writes the driver's disk, and `boot` looks for it.
pub const DEFAULT_PAYLOAD_OUTPUT: &str = "out/driver.erofs";

/// Arguments of `build-initrd`.
#[derive(Debug, Args)]
pub struct BuildInitrd {
    /// Profile: a name that the tool carries, or a file.
    #[arg(long, value_name = "NAME|FILE", default_value = profile::DEFAULT)]
    pub profile: String,
    /// Lock file: read when it is there, else written.
    #[arg(long, value_name = "FILE", default_value = DEFAULT_LOCK)]
    pub lock: PathBuf,
    /// Resolve the profile again, and replace the lock.
    #[arg(long)]
    pub update_lock: bool,
    /// Where the initrd goes.
    #[arg(long, short, value_name = "FILE", default_value = "out/initrd.img")]
    pub output: PathBuf,
    /// Where the kernel image goes.
    #[arg(long, value_name = "FILE", default_value = "out/vmlinuz")]
    pub kernel_output: PathBuf,
    /// Driver capabilities to pack: compute, utility, video, graphics, display, ngx, compat32, or all.
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "compute,utility")]
    pub capabilities: Vec<String>,
    /// GPUs to pack firmware for: names (h100, l4, rtx-4090), PCI ids (10de:2330), or host for those of this machine
    /// [default: all that the driver supports].
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    pub gpu: Vec<Asked>,
    /// How the driver's files are carried.
    #[arg(long, value_enum, value_name = "HOW", default_value = "auto")]
    pub payload: payload::Wanted,
    /// How the EROFS image of the driver's files is compressed [default: zstd in the initrd where the kernel can, lz4hc on
    /// a disk].
    #[arg(long, value_enum, value_name = "HOW")]
    pub payload_compression: Option<payload::Compression>,
    /// Where the driver's disk goes, with --payload disk.
    #[arg(long, value_name = "FILE", default_value = DEFAULT_PAYLOAD_OUTPUT)]
    pub payload_output: PathBuf,
    /// Memory that guests will have: decides between the ways to carry the driver, and one that does not fit is an error.
    #[arg(long, value_name = "MIB", value_parser = clap::value_parser!(u32).range(32..))]
    pub guest_memory: Option<u32>,
    /// How the initrd is compressed: zstd, zstd:LEVEL (1 to 19), lz4, gzip, xz or none.
    #[arg(long, value_name = "HOW", default_value = "zstd")]
    pub compression: Compression,
    /// Another program as PID 1 than the one that the tool carries, for developing it.
    #[arg(long, value_name = "FILE")]
    pub guest_init: Option<PathBuf>,
    /// Make and check the plan, print it, write nothing.
    #[arg(long)]
    pub dry_run: bool,
    /// Where artifacts may come from.
    #[command(flatten)]
    pub access: AccessArgs,
    /// Print the result as JSON on standard output.
    #[arg(long)]
    pub json: bool,
    /// List every file, module and GPU in the result.
    #[arg(long, short)]
    pub verbose: bool,
    /// Print nothing but errors.
    #[arg(long, short, conflicts_with = "verbose")]
    pub quiet: bool,
}
