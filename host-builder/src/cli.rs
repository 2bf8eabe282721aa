//! The command line.

use crate::pack::Compression;
use crate::profile;
use crate::query::Target;
use crate::vm::accel::Choice;
use clap::{Args, Parser, Subcommand, ValueEnum};
use std::path::PathBuf;
use std::time::Duration;

/// Gives a GPU to a container in a microVM: builds the initrd with the NVIDIA driver, and asks guests how they are.
#[derive(Debug, Parser)]
#[command(name = "host-builder", version, max_term_width = 110)]
#[command(after_help = "Exit codes: 0 good, 1 the answer is no, 2 usage or failure.")]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Pack an initrd from the pinned artifacts of a profile.
    ///
    /// Resolves the profile into a lock file where there is none, fetches what the lock names, checks every byte,
    /// builds NVIDIA's open kernel modules for the locked kernel, and writes initrd, kernel and lock.
    BuildInitrd(BuildInitrd),
    /// Show what is in a file.
    ///
    /// Prints a loader cache as the `ldconfig -p` prints it that wrote the cache, of any glibc since 2.2. Control
    /// characters are left out: a cache may come from an image that nobody trusts.
    #[command(after_help = INSPECT_HELP)]
    Inspect(Inspect),
    /// Ask a running guest how it is.
    ///
    /// Shows what is wrong, then phase, driver, GPUs, nodes, injected files, loader cache, container and the time of
    /// each phase. The guest answers from before the GPU is touched until power-off.
    #[command(after_help = STATUS_CODES)]
    Status(Status),
    /// Start a guest on this machine, for trying an image.
    ///
    /// QEMU, from the lock's packages, boots the image just built with a container root and, when asked, with GPUs. The
    /// serial console is on the terminal; Ctrl-C ends the guest. Nothing of the container root is written to.
    #[command(after_help = BOOT_HELP)]
    Boot(Boot),
}

const INSPECT_HELP: &str = "\
Examples:
  host-builder inspect --ld-cache root/etc/ld.so.cache

Exit codes: 0 shown, 2 no such file, or not a cache.";

const STATUS_CODES: &str = "\
Exit codes:
  0  ready; with --wait exited: the program has exited with 0
  1  not ready (yet), or failed
  2  could not be asked, and the message says which: no socket, not listening (yet),
     timed out, not our protocol, other version, a reply that is malformed or too large";

const BOOT_HELP: &str = "\
Examples:
  host-builder boot --root DIR -- nvidia-smi
  host-builder boot --root root.ext4 --vfio 0000:01:00.0 -- nvidia-smi -L
  host-builder boot --root root.ext4 --upper writes.ext4 --append 'gpu_initrd.gpu=optional'

Beside it: host-builder status unix:out/vsock.sock --wait ready

Exit codes: 0 the guest has ended (whatever its program returned: ask status), 2 failure or interrupt.";

/// Arguments of `build-initrd`.
#[derive(Debug, Args)]
pub struct BuildInitrd {
    /// Profile: a name that the tool carries, or a file.
    #[arg(long, value_name = "NAME|FILE", default_value = profile::DEFAULT)]
    pub profile: String,
    /// Lock file: read when it is there, else written.
    #[arg(long, value_name = "FILE", default_value = "initrd.lock")]
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
    /// How the initrd is compressed: zstd, zstd:LEVEL (1 to 19), gzip, xz or none.
    #[arg(long, value_name = "HOW", default_value = "zstd")]
    pub compression: Compression,
    /// Make and check the plan, print it, write nothing.
    #[arg(long)]
    pub dry_run: bool,
    /// Print the result as JSON on standard output.
    #[arg(long)]
    pub json: bool,
    /// Print nothing but errors.
    #[arg(long, short)]
    pub quiet: bool,
}

/// Arguments of `inspect`.
#[derive(Debug, Args)]
pub struct Inspect {
    /// Loader cache (`ld.so.cache`) to print.
    #[arg(long, value_name = "FILE")]
    pub ld_cache: PathBuf,
}

/// Arguments of `status`.
#[derive(Debug, Args)]
pub struct Status {
    /// The guest: unix:PATH[:PORT] (hybrid socket of Firecracker, Cloud Hypervisor and `boot`) or vsock:CID[:PORT].
    /// Default port 1042.
    pub target: Target,
    /// Wait until the boot is ready or has failed, or until the program has exited.
    #[arg(long, value_name = "WHAT")]
    pub wait: Option<Awaited>,
    /// Longest time for the answer, such as 60s, 1500ms or 2m [default: 60s with --wait, else 10s].
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub timeout: Option<Duration>,
    /// Print the whole status as JSON on standard output.
    #[arg(long)]
    pub json: bool,
}

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
    #[arg(long, value_name = "FILE", default_value = "initrd.lock")]
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

/// What `status --wait` waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Awaited {
    /// The boot has an outcome, good or bad.
    Ready,
    /// The container's program has ended.
    Exited,
}

/// `90`, `90s`, `1500ms`, `2m`.
fn duration(text: &str) -> Result<Duration, String> {
    let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let number = text[..split].parse::<u32>().ok().filter(|number| *number > 0);
    let unit = match &text[split..] {
        "ms" => Some(1),
        "" | "s" => Some(1000),
        "m" => Some(60_000),
        _ => None,
    };
    match (number, unit) {
        (Some(number), Some(unit)) => Ok(Duration::from_millis(u64::from(number) * unit)),
        _ => Err("expected a time above 0 such as 60s, 1500ms or 2m".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn times_are_read_or_refused() {
        assert_eq!(duration("90"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("1500ms"), Ok(Duration::from_millis(1500)));
        assert_eq!(duration("2m"), Ok(Duration::from_mins(2)));
        for text in ["", "0", "0s", "s", "-1", "2h", "1.5s", "99999999999"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }
}
