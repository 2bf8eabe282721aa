//! The command line.

mod access;
mod boot;
mod build_initrd;
mod inspect;
mod status;

pub use access::AccessArgs;
pub use boot::Boot;
pub use build_initrd::BuildInitrd;
use clap::{Parser, Subcommand};
pub use inspect::Inspect;
pub use status::{Awaited, Status};

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
    #[command(after_help = inspect::INSPECT_HELP)]
    Inspect(Inspect),
    /// Ask a running guest how it is.
    ///
    /// Shows what is wrong, then phase, driver, GPUs, nodes, injected files, loader cache, container and the time of
    /// each phase. The guest answers from before the GPU is touched until power-off.
    #[command(after_help = status::STATUS_CODES)]
    Status(Status),
    /// Start a guest on this machine, for trying an image.
    ///
    /// QEMU, from the lock's packages, boots the image just built with a container root and, when asked, with GPUs. The
    /// serial console is on the terminal; Ctrl-C ends the guest. Nothing of the container root is written to.
    #[command(after_help = boot::BOOT_HELP)]
    Boot(Boot),
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }
}
