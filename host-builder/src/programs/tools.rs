//! Where programs come from: the machine, or a toolroot (a directory of unpacked packages, entered without root).

use crate::common::error::{Doing, Error, Result};
use std::path::{Path, PathBuf};
use std::process::Command;

/// A place that programs are run from.
pub trait Tools {
    /// A command that runs `program`, found on the place's own path, with the host's directories and files `visible`
    /// at their own paths. The process that it starts *is* the program: killing it kills the program.
    fn command(&self, program: &str, visible: &[PathBuf]) -> Command;
}

/// The machine itself.
pub struct HostTools;

impl Tools for HostTools {
    fn command(&self, program: &str, _visible: &[PathBuf]) -> Command {
        Command::new(program)
    }
}

/// A directory of unpacked Debian packages ([`crate::programs::toolroot::Toolroot::path`]), entered so that the host's files keep
/// their paths.
pub struct Toolroot {
    root: PathBuf,
}

impl Toolroot {
    /// The toolroot at `root`.
    pub fn at(root: &Path) -> Result<Self> {
        let root = root.canonicalize().doing("finding the toolroot", root)?;
        if root.join("usr/bin").is_dir() {
            return Ok(Self { root });
        }
        Err(Error::new(format!("{}/usr/bin: expected a directory, found none", root.display()))
            .hint("pass a directory with unpacked packages"))
    }
}

/// Enters the toolroot `$1` in a new mount namespace. The root is a fresh tmpfs, on the toolroot's own empty /tmp, with
/// the toolroot's programs and configuration bound into it: mount points for the host's paths (`$2`, a count, then as
/// many paths) leave no trace. Entering a namespace cancels the signal that ends the program with its owner, so it is
/// asked for again.
const ENTER: &str = r#"set -e
root=$1 count=$2; shift 2
mount -t tmpfs toolroot "$root/tmp"; new=$root/tmp
for d in "$root"/*; do [ ! -L "$d" ] || ln -s "$(readlink "$d")" "$new/${d##*/}"; done
for d in usr etc; do mkdir -p "$new/$d"; [ ! -d "$root/$d" ] || mount --rbind "$root/$d" "$new/$d"; done
mkdir -p "$new/dev" "$new/proc" "$new/sys" "$new/tmp"
for d in /dev /proc /sys; do mount --rbind "$d" "$new$d"; done
while [ "$count" -gt 0 ]; do
    if [ -d "$1" ]; then mkdir -p "$new$1"; else mkdir -p "$new${1%/*}"; [ -e "$new$1" ] || : > "$new$1"; fi
    mount --rbind "$1" "$new$1"
    shift; count=$((count - 1))
done
exec setpriv --pdeathsig KILL chroot "$new" "$@""#;

impl Tools for Toolroot {
    fn command(&self, program: &str, visible: &[PathBuf]) -> Command {
        let mut command = Command::new("unshare");
        // Real root stays it: in a user namespace it could not lock the memory that VFIO maps.
        if !nix::unistd::geteuid().is_root() {
            command.args(["--user", "--map-root-user"]);
        }
        command.args(["--mount", "--", "sh", "-c", ENTER, "enter-toolroot"]);
        command.arg(&self.root).arg(visible.len().to_string()).args(visible).arg(program);
        command.env("PATH", "/usr/bin:/usr/sbin:/usr/libexec:/bin:/sbin").env("LC_ALL", "C.UTF-8");
        command
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_toolroot_command_names_root_count_paths_and_program_in_that_order() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("usr/bin")).unwrap();
        let root = dir.path().canonicalize().unwrap();
        let tools = Toolroot::at(dir.path()).unwrap();
        let command = tools.command("mkfs", &["/a".into(), "/b c".into()]);
        let args: Vec<_> = command.get_args().map(|arg| arg.to_str().unwrap()).collect();
        let at = args.iter().position(|arg| *arg == "--mount").unwrap();
        let expected = ["--mount", "--", "sh", "-c", ENTER, "enter-toolroot", root.to_str().unwrap()];
        assert_eq!(args[at..][..7], expected);
        assert_eq!(args[at..][7..], ["2", "/a", "/b c", "mkfs"]);
    }

    #[test]
    fn a_directory_without_programs_is_no_toolroot() {
        let dir = tempfile::tempdir().unwrap();
        assert!(Toolroot::at(dir.path()).err().unwrap().to_string().contains("usr/bin"));
    }
}
