//! Where the rig's programs come from: the machine, or a toolroot, a directory of unpacked packages that is entered without being root.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use crate::RigError;

/// A place that programs are run from.
pub trait Tools {
    /// A command that runs `program`, found on the place's own path, with the host's directories `visible` at their own paths.
    /// The process that it starts *is* the program: killing it kills the program.
    fn command(&self, program: &str, visible: &[PathBuf]) -> Command;
}

/// The machine itself.
pub struct Host;

impl Tools for Host {
    fn command(&self, program: &str, _visible: &[PathBuf]) -> Command {
        Command::new(program)
    }
}

/// A directory of unpacked Debian packages.
pub struct Toolroot {
    root: PathBuf,
}

impl Toolroot {
    /// The toolroot at `root`.
    pub fn at(root: &Path) -> Result<Self, RigError> {
        let root = root.canonicalize().map_err(|e| RigError::io("find the toolroot", root, e))?;
        if root.join("usr/bin").is_dir() {
            Ok(Self { root })
        } else {
            Err(RigError::Missing {
                what: format!("{}/usr/bin", root.display()),
                remedy: "name a directory with unpacked packages".into(),
            })
        }
    }
}

/// Enters the toolroot `$1` in a new mount namespace. The root is a fresh tmpfs, on the toolroot's own empty /tmp, with the toolroot's
/// directories bound into it: the mount points for the host's directories (`$2`, a count, then as many paths) leave no trace.
/// Entering a namespace cancels the signal that makes the program end with the test process, so it is asked for again.
const ENTER: &str = r#"set -e
root=$1 count=$2; shift 2
mount -t tmpfs toolroot "$root/tmp"; new=$root/tmp
for d in "$root"/*; do
    n=${d##*/}
    if [ -L "$d" ]; then ln -s "$(readlink "$d")" "$new/$n"
    elif [ -d "$d" ]; then case $n in tmp|dev|proc|sys) ;; *) mkdir "$new/$n"; mount --rbind "$d" "$new/$n" ;; esac
    fi
done
mkdir -p "$new/dev" "$new/proc" "$new/sys" "$new/tmp"
for d in /dev /proc /sys; do mount --rbind "$d" "$new$d"; done
while [ "$count" -gt 0 ]; do mkdir -p "$new$1"; mount --rbind "$1" "$new$1"; shift; count=$((count - 1)); done
exec setpriv --pdeathsig KILL chroot "$new" "$@""#;

impl Tools for Toolroot {
    fn command(&self, program: &str, visible: &[PathBuf]) -> Command {
        let mut command = Command::new("unshare");
        command.args(["--map-root-user", "--mount", "--", "sh", "-c", ENTER, "enter-toolroot"]);
        command.arg(&self.root).arg(visible.len().to_string()).args(visible).arg(program);
        command.env("PATH", "/usr/bin:/usr/sbin:/usr/libexec:/bin:/sbin").env("LC_ALL", "C.UTF-8");
        command
    }
}

/// The user's cache directory of this project: `$XDG_CACHE_HOME/gpu-initrd` or `~/.cache/gpu-initrd`.
pub fn cache_dir() -> Result<PathBuf, RigError> {
    let base = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).filter(|p| p.is_absolute());
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache"));
    base.or_else(home)
        .map(|cache| cache.join("gpu-initrd"))
        .ok_or_else(|| RigError::Missing { what: "HOME".into(), remedy: "set HOME or XDG_CACHE_HOME".into() })
}

/// The executable of a tool that `./tests/run` installs into the cache directory, under `tools/NAME-VERSION/bin`.
pub fn installed(name: &str, version: &str) -> Result<PathBuf, RigError> {
    let path = cache_dir()?.join("tools").join(format!("{name}-{version}")).join("bin").join(name);
    if path.is_file() {
        Ok(path)
    } else {
        Err(RigError::Missing {
            what: path.display().to_string(),
            remedy: format!("./tests/run installs it (cargo install {name} --version {version} --root …)"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_toolroot_command_names_root_count_directories_and_program_in_that_order() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("usr/bin")).unwrap();
        let root = dir.path().canonicalize().unwrap();
        let tools = Toolroot::at(dir.path()).unwrap();
        let command = tools.command("mkfs", &["/a".into(), "/b c".into()]);
        let args: Vec<_> = command.get_args().map(|a| a.to_str().unwrap()).collect();
        let expected =
            ["--map-root-user", "--mount", "--", "sh", "-c", ENTER, "enter-toolroot", root.to_str().unwrap()];
        assert_eq!(args[..8], expected);
        assert_eq!(args[8..], ["2", "/a", "/b c", "mkfs"]);
    }

    #[test]
    fn a_directory_without_programs_is_no_toolroot() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(Toolroot::at(dir.path()), Err(RigError::Missing { .. })));
    }
}
