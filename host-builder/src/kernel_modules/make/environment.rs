//! The environment for compiling modules: the toolroot, or the machine's own programs. Both have
//! the same directories at the same paths every time, so that no path of this machine gets into a
//! module.

use crate::artifacts::cache::Cache;
use crate::common::error::{Doing, Error, Result};
use crate::common::files::Scratch;
use crate::programs::toolroot::{Toolroot, explain};
use std::path::Path;
use std::process::Command;

/// `$1` is a directory to collect the binds in, then pairs of SOURCE NAME until `--`, then the
/// program. All of them are bound before `/mnt` is covered, because they may be below it.
const ENTER: &str = r#"
stage=$1; shift
mount -t tmpfs tmpfs "$stage"
while [ "$1" != -- ]; do
    mkdir "$stage/$2"
    mount --rbind "$1" "$stage/$2"
    shift 2
done
shift
mount --rbind "$stage" /mnt
cd /
exec "$@"
"#;

/// A directory in the environment that a directory of this machine is bound to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Room {
    /// The work directory.
    Work,
    /// Kernel headers.
    Headers,
    /// The part of the headers that several kernels share, if it is separate.
    Common,
    /// The directory of the signing key.
    Key,
}

/// Where the programs come from.
pub enum Workshop {
    /// A directory of locked packages.
    Toolroot(Toolroot),
    /// This machine.
    Host(HostPrograms),
}

/// This machine's programs, with fixed paths of directories.
pub struct HostPrograms {
    stage: Scratch,
    compiler: String,
}

impl Workshop {
    /// The machine's own programs: the compiler is `$CC`, else gcc.
    pub fn host(cache: &Cache) -> Result<Self> {
        let compiler = std::env::var("CC").ok().filter(|text| !text.is_empty());
        Ok(Self::Host(HostPrograms {
            stage: cache.scratch()?,
            compiler: compiler.unwrap_or_else(|| "gcc".to_owned()),
        }))
    }

    /// The toolroot's directory.
    pub fn root(&self) -> Option<&Path> {
        match self {
            Self::Toolroot(toolroot) => Some(toolroot.path()),
            Self::Host(_) => None,
        }
    }

    /// Name of the compiler.
    pub fn compiler(&self) -> &str {
        match self {
            Self::Toolroot(_) => "gcc",
            Self::Host(host) => &host.compiler,
        }
    }

    /// Path of a directory as programs see it.
    pub fn place(&self, room: Room) -> &'static str {
        match (self, room) {
            (Self::Toolroot(_), Room::Work) => "/build",
            (Self::Toolroot(_), Room::Headers) => "/srv",
            (Self::Toolroot(_), Room::Common) => "/mnt",
            (Self::Toolroot(_), Room::Key) => "/opt",
            (Self::Host(_), Room::Work) => "/mnt/build",
            (Self::Host(_), Room::Headers) => "/mnt/headers",
            (Self::Host(_), Room::Common) => "/mnt/common",
            (Self::Host(_), Room::Key) => "/mnt/key",
        }
    }

    /// A command that runs `program` with directories of this machine bound to their paths.
    pub fn command(&self, binds: &[(&Path, Room)], program: &str) -> Command {
        let host = match self {
            Self::Toolroot(toolroot) => {
                let binds: Vec<_> = binds.iter().map(|(path, room)| (*path, self.place(*room))).collect();
                return toolroot.command(&binds, program);
            }
            Self::Host(host) => host,
        };
        let mut command = Command::new("unshare");
        command.arg("--mount");
        if !nix::unistd::geteuid().is_root() {
            command.args(["--user", "--map-root-user"]);
        }
        command.args(["--", "/bin/sh", "-euc", ENTER, "workshop"]).arg(host.stage.path());
        for (path, room) in binds {
            command.arg(path).arg(self.place(*room).trim_start_matches("/mnt/"));
        }
        command.args(["--", program]);
        let path = std::env::var_os("PATH").unwrap_or_else(|| "/usr/bin:/usr/sbin:/bin:/sbin".into());
        command.env_clear().env("PATH", path).env("LC_ALL", "C").env("HOME", "/tmp");
        command
    }

    /// Fails if a program for compiling is missing.
    pub fn check(&self) -> Result<()> {
        for program in [self.compiler(), "make", "strip", "ld"] {
            let output = self.command(&[], program).arg("--version").output();
            let output = output.doing("running unshare (package util-linux) for", Path::new(program))?;
            if output.status.success() {
                continue;
            }
            let stderr = String::from_utf8_lossy(&output.stderr);
            let error = explain(&format!("running {program} --version"), &stderr);
            return Err(match (self, error.remedy()) {
                (_, Some(_)) => error,
                (Self::Host(_), _) => missing(program, &stderr).hint(
                    "install it (apt install gcc make), name another compiler in CC, or use --toolchain toolroot",
                ),
                (Self::Toolroot(_), _) => {
                    missing(program, &stderr).hint("add it to the profile's [toolroot] packages")
                }
            });
        }
        Ok(())
    }
}

fn missing(program: &str, found: &str) -> Error {
    Error::new(format!("the modules' build needs {program}, which does not run: {}", found.trim()))
}
