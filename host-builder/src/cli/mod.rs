//! The command line.

mod arguments;
pub mod boot;
pub mod build_initrd;
pub mod build_modules;
pub mod cat;
pub mod cp;
pub mod diff;
pub mod doctor;
pub mod events;
pub mod examine;
pub mod exec;
pub mod explain;
pub mod extract;
pub mod inspect;
pub mod list;
pub mod logs;
pub mod man;
pub mod metrics;
pub mod pins;
pub mod sbom;
pub mod status;
pub mod stop;
pub mod verify;

pub use self::boot::options::Boot;
pub use self::build_initrd::options::{BuildInitrd, DEFAULT_PAYLOAD_OUTPUT};
pub use self::build_modules::options::BuildModules;
pub use self::cat::Cat;
pub use self::cp::Cp;
pub use self::diff::Diff;
pub use self::doctor::Doctor;
pub use self::events::Events;
pub use self::examine::Examine;
pub use self::exec::Exec;
pub use self::explain::Explain;
pub use self::extract::Extract;
pub use self::inspect::Inspect;
pub use self::list::List;
pub use self::logs::Logs;
pub use self::man::{Completions, Man};
pub use self::metrics::Metrics;
pub use self::pins::options::Pins;
pub use self::sbom::{Format as SbomFormat, Sbom};
pub use self::status::options::Status;
pub use self::stop::Stop;
pub use self::verify::Verify;
pub use arguments::{AccessArgs, DEFAULT_LOCK, patience};
use clap::{CommandFactory, Parser, Subcommand};
use std::ffi::OsString;

/// Runs containers with NVIDIA GPUs in microVMs: builds the initrd with the driver, checks hosts,
/// and queries guests.
#[derive(Debug, Parser)]
#[command(name = "host-builder", version, max_term_width = 110)]
#[command(
    after_help = "Exit codes: 0 success, 1 a check failed or a guest is not ready, 2 usage error or failure."
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Build an initrd from the pinned artifacts of a profile.
    ///
    /// Resolves the profile into a lock file if there is none, fetches the artifacts in the lock,
    /// checks their digests, builds NVIDIA's open kernel modules for the locked kernel, and writes
    /// the initrd, the kernel and the lock.
    BuildInitrd(BuildInitrd),
    /// Build NVIDIA's open kernel modules for a kernel, from its headers.
    ///
    /// The result is an archive like those on release pages. A profile can use it as the artifact
    /// for `gpu-modules`. Builds are reproducible: the same inputs produce the same bytes.
    #[command(after_help = build_modules::options::BUILD_MODULES_HELP)]
    BuildModules(BuildModules),
    /// Show, choose and check what initrds are built from: profiles and locks.
    ///
    /// A profile states the intent: which kernel, which driver, and where they come from. A lock
    /// records what the profile resolved to: name, version, source, size and SHA-256 of every
    /// artifact.
    #[command(after_help = pins::options::PINS_HELP)]
    Pins(Pins),
    /// Show what an initramfs contains: which versions, and why each part is there.
    ///
    /// For an initrd built by this tool: profile, kernel, driver, capabilities, modules in load
    /// order with what needs them, firmware, libraries by capability, and sizes by origin. For any
    /// other initramfs: kernel releases, modules, PID 1, and the tool that made it if it can be
    /// detected. With --ld-cache, prints a loader cache in the format of `ldconfig -p` of the glibc
    /// that wrote it (2.2 or newer). Control characters are removed: the input is not trusted.
    #[command(after_help = inspect::INSPECT_HELP)]
    Inspect(Inspect),
    /// List the entries of an initramfs, like `cpio -t` for each archive in it.
    ///
    /// Works on any initramfs: one or more concatenated archives, each uncompressed or compressed
    /// with gzip, xz, zstd, lz4 or bzip2. On a terminal, control characters in names are removed.
    #[command(after_help = list::LIST_HELP)]
    List(List),
    /// Print files of an initramfs to standard output.
    ///
    /// If a path occurs more than once, the last one is printed, because the kernel keeps that one.
    #[command(after_help = cat::CAT_HELP)]
    Cat(Cat),
    /// Unpack an initramfs into a new directory.
    ///
    /// Nothing is written outside the directory, whatever paths and links the initramfs contains.
    /// Modes are restored. Owners are restored only as root; set-user-ID and set-group-ID bits only
    /// as root with --set-ids.
    #[command(after_help = extract::EXTRACT_HELP)]
    Extract(Extract),
    /// Show the segments of an initramfs: offset, size, compression and unpacked size.
    #[command(after_help = examine::EXAMINE_HELP)]
    Examine(Examine),
    /// Show what changed between two initrds: driver, kernel, files and sizes.
    #[command(after_help = diff::DIFF_HELP)]
    Diff(Diff),
    /// Check every file of an initrd against its manifest, and the manifest against a lock.
    #[command(after_help = verify::VERIFY_HELP)]
    Verify(Verify),
    /// Print a software bill of materials (SBOM) of an initrd: CycloneDX or SPDX, as JSON.
    ///
    /// Lists packages with versions and purl, and every file with its digest. The same initrd
    /// produces the same document.
    #[command(after_help = sbom::SBOM_HELP)]
    Sbom(Sbom),
    /// Check a host or a container root before the boot: what is wrong, and how to fix it.
    ///
    /// Checks of a host: IOMMU, VFIO, the GPUs and what uses them, memory, KVM and vsock; with
    /// IMAGE also whether its driver supports the GPUs. With IMAGE and --root, doctor checks a
    /// container root instead: its libc, where the driver's files would go, which driver files it
    /// has itself, and what its CUDA needs. Nothing on the host or in the root is changed. With
    /// IMAGE, doctor may fetch packages of the lock that read disk images; --offline forbids this.
    #[command(after_help = doctor::DOCTOR_HELP)]
    Doctor(Doctor),
    /// Show the status of running guests.
    ///
    /// Shows findings first, then the boot timeline, GPUs, device nodes, injected files, loader
    /// cache, container and memory. With several guests, shows a table. A guest answers from before
    /// it touches the GPU until power-off.
    #[command(after_help = status::options::STATUS_HELP)]
    Status(Status),
    /// Explain a finding: what it means, what usually causes it, and what to do.
    #[command(after_help = explain::EXPLAIN_HELP)]
    Explain(Explain),
    /// Show the events of a guest: phases, GPUs, Xids, findings, start and exit of the container.
    ///
    /// A guest keeps its last 512 events. The number of lost events is reported.
    #[command(after_help = events::EVENTS_HELP)]
    Events(Events),
    /// Show the output of a guest's container, or its kernel log.
    #[command(after_help = logs::LOGS_HELP)]
    Logs(Logs),
    /// Stop guests: the program receives a signal, the rest is killed after a grace period, and the machine powers off.
    #[command(after_help = stop::STOP_HELP)]
    Stop(Stop),
    /// Run a command in the container of a guest, such as nvidia-smi or a shell.
    #[command(after_help = exec::EXEC_HELP)]
    Exec(Exec),
    /// Copy files to or from the container of a guest.
    #[command(after_help = cp::CP_HELP)]
    Cp(Cp),
    /// Print metrics of guests in the Prometheus text format, or serve them over HTTP.
    #[command(after_help = metrics::METRICS_HELP)]
    Metrics(Metrics),
    /// Start a guest on this machine to try an initrd.
    ///
    /// QEMU from the lock's packages boots the initrd with a container root and, optionally, with
    /// GPUs. The guest's console is shown on the terminal. Ctrl-] ends the guest; all other keys go
    /// to the program. The root is never written to.
    #[command(after_help = boot::options::BOOT_HELP)]
    Boot(Boot),
    /// Write manual pages, one per command.
    #[command(after_help = man::MAN_HELP)]
    Man(Man),
    /// Print a completion script for a shell.
    #[command(after_help = man::COMPLETIONS_HELP)]
    Completions(Completions),
}

/// Returns the first example in the help of the command that `words` begin with.
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
    fn unknown_option_is_a_usage_error() {
        let error = Cli::try_parse_from(["host-builder", "status", "vsock:5", "--of-a-later-release"]);
        let error = error.unwrap_err();
        assert_eq!((error.kind(), error.exit_code()), (clap::error::ErrorKind::UnknownArgument, 2));
    }

    #[test]
    fn a_command_that_needs_an_argument_has_an_example() {
        let example = |words: &[&str]| example(words.iter().map(|word| OsString::from(*word)));
        for words in [
            &["status"][..],
            &["status", "--json"],
            &["events"],
            &["logs"],
            &["stop"],
            &["exec"],
            &["cp"],
            &["metrics"],
            &["inspect"],
        ] {
            let found = example(words).unwrap_or_else(|| panic!("{words:?} has no example"));
            assert!(found.starts_with(&format!("host-builder {}", words[0])), "{found}");
        }
        assert_eq!(example(&["no-such-command"]), None);
    }
}
