//! The command line of `build-modules`.

use crate::build::modules::Toolchain;
use crate::cli::arguments::{AccessArgs, DEFAULT_LOCK, ProfileArgs};
use crate::kernel_modules::make::sign::Hash;
use clap::Args;
use std::path::PathBuf;

pub(crate) const BUILD_MODULES_HELP: &str = "\
Examples:
  host-builder build-modules
  host-builder build-modules --headers-package linux-headers-amd64
  host-builder build-modules --headers ~/linux --source NVIDIA-Linux-x86_64-570.86.16.run --toolchain host
  host-builder build-modules --sign-key signing_key.pem --sign-cert signing_key.x509 --validation modules.json

In a profile: [[artifact]] name = \"nvidia-modules\", sets = [\"gpu-modules\"], url = \"out/nvidia-modules-x86_64.tar.gz\".

Exit codes: 0 built and checked, 2 usage or failure.";

/// Arguments of `build-modules`.
#[derive(Debug, Args)]
pub struct BuildModules {
    /// Which kernel, and which driver: source, patches and toolroot of its modules.
    #[command(flatten)]
    pub profile: ProfileArgs,
    /// Lock file: read if it exists, otherwise written. Not needed with --source, --headers and
    /// --toolchain host.
    #[arg(long, value_name = "FILE", default_value = DEFAULT_LOCK)]
    pub lock: PathBuf,
    /// Source of the open modules, used unchanged instead of the locked one: a directory, a tar or
    /// zip archive, or NVIDIA's .run installer.
    #[arg(long, value_name = "DIR|ARCHIVE")]
    pub source: Option<PathBuf>,
    /// Configured kernel build tree, or the directory of a linux-headers package [default: the
    /// headers of the lock].
    #[arg(long, value_name = "DIR")]
    pub headers: Option<PathBuf>,
    /// Kernel sources, if the headers are split and do not name the other part.
    #[arg(long, value_name = "DIR", requires = "headers")]
    pub headers_common: Option<PathBuf>,
    /// Packages with kernel headers, from the current state of the profile's archive.
    #[arg(long, value_name = "NAME", value_delimiter = ',', conflicts_with = "headers")]
    pub headers_package: Vec<String>,
    /// Source of compiler, make and binutils.
    #[arg(long, value_enum, value_name = "WHICH", default_value = "toolroot")]
    pub toolchain: Toolchain,
    /// Private key (PEM) that signs the modules; KBUILD_SIGN_PIN holds its passphrase.
    #[arg(long, value_name = "FILE", requires = "sign_cert")]
    pub sign_key: Option<PathBuf>,
    /// Certificate of the key, PEM or DER.
    #[arg(long, value_name = "FILE", requires = "sign_key")]
    pub sign_cert: Option<PathBuf>,
    /// Digest to sign.
    #[arg(long, value_enum, value_name = "HASH", default_value = "sha256")]
    pub sign_hash: Hash,
    /// Output file for the archive.
    #[arg(long, short, value_name = "FILE", default_value = "out/nvidia-modules-x86_64.tar.gz")]
    pub output: PathBuf,
    /// Output file for the description of the modules, in addition to the copy in the archive.
    #[arg(long, value_name = "FILE")]
    pub validation: Option<PathBuf>,
    /// Sources of artifacts.
    #[command(flatten)]
    pub access: AccessArgs,
    /// Print the result as JSON to standard output.
    #[arg(long)]
    pub json: bool,
    /// Print only errors.
    #[arg(long, short)]
    pub quiet: bool,
}
