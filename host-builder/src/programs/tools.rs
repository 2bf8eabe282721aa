//! Sources of programs: the machine, or a toolroot (a directory of unpacked packages, entered
//! without root).

use crate::common::error::{Doing, Error, Result};
use std::path::{Path, PathBuf};
use std::process::Command;

/// A source of programs.
pub trait Tools {
    /// A command that runs `program`, found in the PATH of this source. The host's files and
    /// directories `visible` have the same paths in it. The started process *is* the program:
    /// killing it kills the program.
    fn command(&self, program: &str, visible: &[PathBuf]) -> Command;
}

/// The programs of the machine itself.
pub struct HostTools;

impl Tools for HostTools {
    fn command(&self, program: &str, _visible: &[PathBuf]) -> Command {
        Command::new(program)
    }
}

/// A directory of unpacked Debian packages ([`crate::programs::toolroot::Toolroot::path`]). The
/// host's files keep their paths in it.
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

/// Enters the toolroot `$1` in a new mount namespace. Its root is a new tmpfs on the toolroot's
/// empty /tmp, with the toolroot's programs and configuration bound into it, so mount points for
/// the host's paths (`$2`, a count, then the paths) leave no trace. Entering a namespace cancels
/// the signal that ends the program together with its owner, so it is requested again.
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
        // With real root, no user namespace is used: in it, QEMU could not lock the memory that
        // VFIO maps.
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
    fn command_has_root_count_paths_and_program_in_order() {
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
    fn directory_without_programs_is_not_a_toolroot() {
        let dir = tempfile::tempdir().unwrap();
        assert!(Toolroot::at(dir.path()).err().unwrap().to_string().contains("usr/bin"));
    }
}
