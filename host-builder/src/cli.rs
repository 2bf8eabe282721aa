//! The command line.

use crate::pack::Compression;
use crate::profile;
use crate::query::Target;
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
    /// Ask a running guest how it is.
    ///
    /// Shows what is wrong, then phase, driver, GPUs, nodes, injected files, loader cache, container and the time of
    /// each phase. The guest answers from before the GPU is touched until power-off.
    #[command(after_help = STATUS_CODES)]
    Status(Status),
}

const STATUS_CODES: &str = "\
Exit codes:
  0  ready; with --wait exited: the program has exited with 0
  1  not ready (yet), or failed
  2  could not be asked; the message says which of: no socket, not listening (yet), timed out, not our protocol,
     other version, reply malformed or too large";

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
    /// Driver capabilities to pack: compute, utility, video.
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
