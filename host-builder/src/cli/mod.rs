//! The command line.

mod arguments;
pub mod boot;
pub mod build_initrd;
pub mod build_modules;
pub mod cat;
pub mod diff;
pub mod doctor;
pub mod events;
pub mod examine;
pub mod extract;
pub mod inspect;
pub mod list;
pub mod logs;
pub mod man;
pub mod metrics;
pub mod pins;
pub mod sbom;
pub mod status;
pub mod verify;

pub use self::boot::options::Boot;
pub use self::build_initrd::options::{BuildInitrd, DEFAULT_PAYLOAD_OUTPUT};
pub use self::build_modules::options::BuildModules;
pub use self::cat::Cat;
pub use self::diff::Diff;
pub use self::doctor::Doctor;
pub use self::events::Events;
pub use self::examine::Examine;
pub use self::extract::Extract;
pub use self::inspect::Inspect;
pub use self::list::List;
pub use self::logs::Logs;
pub use self::man::{Completions, Man};
pub use self::metrics::Metrics;
pub use self::pins::options::Pins;
pub use self::sbom::{Format as SbomFormat, Sbom};
pub use self::status::options::Status;
pub use self::verify::Verify;
pub use arguments::{AccessArgs, DEFAULT_LOCK, patience};
use clap::{CommandFactory, Parser, Subcommand};
use std::ffi::OsString;

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
    /// Build NVIDIA's open kernel modules for a kernel whose headers are at hand.
    ///
    /// The result is an archive as release pages have it, which a profile takes as an artifact for `gpu-modules`. The
    /// same inputs give the same bytes, anywhere and at any time.
    #[command(after_help = build_modules::options::BUILD_MODULES_HELP)]
    BuildModules(BuildModules),
    /// Show, choose and check what images are made from: profiles and locks.
    ///
    /// A profile is intent: which kernel, which driver, from where. A lock is what it resolved to: name, version, source,
    /// size and SHA-256 of every artifact.
    #[command(after_help = pins::options::PINS_HELP)]
    Pins(Pins),
    /// Show what an initramfs is: what is in it, which versions, and why.
    ///
    /// Of an image of this tool: profile, kernel, driver, capabilities, modules in load order with what needs them,
    /// firmware, libraries by capability, and sizes by origin. Of any other: kernel releases, modules, PID 1, and the
    /// tool that made it where that can be told. With --ld-cache it prints a loader cache as the `ldconfig -p` prints
    /// it that wrote the cache, of any glibc since 2.2. Control characters are left out: nothing here is trusted.
    #[command(after_help = inspect::INSPECT_HELP)]
    Inspect(Inspect),
    /// List the entries of an initramfs, as `cpio -t` does for each archive in it.
    ///
    /// Works on anyone's initramfs: archives after each other, each as it is or in gzip, xz, zstd, lz4 or bzip2. On a
    /// terminal, control characters of names are left out.
    #[command(after_help = list::LIST_HELP)]
    List(List),
    /// Print files of an initramfs on standard output.
    ///
    /// Where a path comes more than once, the last one is printed, as it is the one that the kernel leaves.
    #[command(after_help = cat::CAT_HELP)]
    Cat(Cat),
    /// Unpack an initramfs into a new directory.
    ///
    /// Nothing gets outside of the directory, whatever paths and links the image holds. Modes are restored, and owners
    /// when run as root; set-user-ID bits only then.
    #[command(after_help = extract::EXTRACT_HELP)]
    Extract(Extract),
    /// Show the segments of an initramfs: offset, size, compression, unpacked size.
    #[command(after_help = examine::EXAMINE_HELP)]
    Examine(Examine),
    /// Show what changed between two images: driver, kernel, files, bytes.
    #[command(after_help = diff::DIFF_HELP)]
    Diff(Diff),
    /// Hold every file of an image against its manifest, and the manifest against a lock.
    #[command(after_help = verify::VERIFY_HELP)]
    Verify(Verify),
    /// Print a bill of materials of an image: CycloneDX or SPDX, as JSON.
    ///
    /// Packages with versions and purl, every file with its digest. The same image gives the same document.
    #[command(after_help = sbom::SBOM_HELP)]
    Sbom(Sbom),
    /// Look at a host, or at a container image, before the boot: what is wrong, and what to do.
    ///
    /// A host: IOMMU, VFIO, the GPUs and what has them, memory, KVM, vsock; with IMAGE, whether its driver knows the GPUs.
    /// With IMAGE and --root, a container: its libc, where the driver's files would go, which it brings along, what its
    /// CUDA needs. Nothing is changed, nothing is fetched.
    #[command(after_help = doctor::DOCTOR_HELP)]
    Doctor(Doctor),
    /// Ask running guests how they are.
    ///
    /// Shows what is wrong first, then the boot on its time line, GPUs, nodes, injected files, loader cache, container and
    /// memory; of several guests a table. A guest answers from before the GPU is touched until power-off.
    #[command(after_help = status::options::STATUS_HELP)]
    Status(Status),
    /// Show what happens in a guest: phases, GPUs, Xids, findings, the container's start and end.
    ///
    /// A guest keeps its last 512 events; how many are lost is said.
    #[command(after_help = events::EVENTS_HELP)]
    Events(Events),
    /// Show what the container of a guest, or its kernel, has written.
    #[command(after_help = logs::LOGS_HELP)]
    Logs(Logs),
    /// Print what guests say as metrics in the text format of Prometheus, or serve them over HTTP.
    #[command(after_help = metrics::METRICS_HELP)]
    Metrics(Metrics),
    /// Start a guest on this machine, for trying an image.
    ///
    /// QEMU, from the lock's packages, boots the image just built with a container root and, when asked, with GPUs. Its
    /// console is on the terminal, where all keys are the program's and Ctrl-] ends the guest. Nothing of the root is written to.
    #[command(after_help = boot::options::BOOT_HELP)]
    Boot(Boot),
    /// Write manual pages, one for each command.
    #[command(after_help = man::MAN_HELP)]
    Man(Man),
    /// Print completions for a shell.
    #[command(after_help = man::COMPLETIONS_HELP)]
    Completions(Completions),
}

/// The first example in the help of the command that `words` begin with.
pub fn example(words: impl IntoIterator<Item = OsString>) -> Option<String> {
    let mut command = Cli::command();
    for word in words {
        match command.find_subcommand(&word) {
            Some(inner) => command = inner.clone(),
            None => break,
        }
    }
    let help = command.get_after_help()?.to_string();
    let examples = help.split_once("Examples:\n")?.1;
    examples.lines().next().map(|line| line.trim().to_owned())
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
    fn a_command_that_needs_an_argument_has_an_example() {
        let example = |words: &[&str]| example(words.iter().map(|word| OsString::from(*word)));
        for words in
            [&["status"][..], &["status", "--json"], &["events"], &["logs"], &["metrics"], &["inspect"]]
        {
            let found = example(words).unwrap_or_else(|| panic!("{words:?} has no example"));
            assert!(found.starts_with(&format!("host-builder {}", words[0])), "{found}");
        }
        assert_eq!(example(&["no-such-command"]), None);
    }
}
