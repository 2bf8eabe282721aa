//! A directory of Debian packages to run programs in, without root and without changing the
//! machine: all packages unpacked, without maintainer scripts, entered through a user and a mount
//! namespace.

use crate::artifacts::cache::Cache;
use crate::artifacts::compare::differences;
use crate::artifacts::tree::Altered;
use crate::artifacts::unpack::Unpacker;
use crate::common::error::{Doing, Error, Result};
use crate::common::parallel;
use crate::common::ui::{Ui, Unit};
use crate::pins::lock::{Artifact, Lock, Set};
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

/// `$1` is the root, then pairs of SOURCE TARGET until `--`, then the program. /dev is the
/// machine's: with an empty one, `> /dev/null` creates a file, and NVIDIA's configuration tests
/// give wrong results.
const ENTER: &str = r#"
root=$1; shift
mount --rbind /dev "$root/dev"
mount --rbind /proc "$root/proc"
mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
while [ "$1" != -- ]; do
    mount --rbind "$1" "$root$2"
    shift 2
done
shift
exec chroot "$root" "$@"
"#;

/// The cache directory for toolroots.
const ROOM: &str = "toolroots";

/// An unpacked toolroot.
#[derive(Debug, Clone)]
pub struct Toolroot {
    root: PathBuf,
}

impl Toolroot {
    /// Unpacks the toolroot of one set of the lock. Its packages must be in the cache.
    pub fn of(
        cache: &Cache,
        lock: &Lock,
        set: Set,
        links: &BTreeMap<String, String>,
        ui: &Ui,
    ) -> Result<Self> {
        let packages = lock.set(set);
        let root =
            cache.derived(ROOM, &key(lock, set, links), |dir| make(cache, &packages, links, dir, ui))?;
        Ok(Self { root })
    }

    /// The differences between the unpacked toolroot and its packages; `None` if it is not
    /// unpacked. Its packages must be in the cache.
    pub fn altered(
        cache: &Cache,
        lock: &Lock,
        set: Set,
        links: &BTreeMap<String, String>,
    ) -> Result<Option<Altered>> {
        let Some(dir) = cache.kept(ROOM, &key(lock, set, links))? else { return Ok(None) };
        let fresh = cache.scratch()?;
        make(cache, &lock.set(set), links, fresh.path(), &Ui::new(true))?;
        let differences = differences(fresh.path(), &dir)?;
        Ok(Some(Altered { dir, differences }))
    }

    /// The directory with its files on this machine.
    pub fn path(&self) -> &Path {
        &self.root
    }

    /// A command that runs `program` in the toolroot with `binds` (path on this machine, path in
    /// the toolroot). A target is one of the mount points `/build`, `/mnt`, `/srv`, `/opt` or an
    /// existing path below `/dev` or `/tmp`.
    pub fn command(&self, binds: &[(&Path, &str)], program: &str) -> Command {
        let mut command = Command::new("unshare");
        command.arg("--mount");
        if !nix::unistd::geteuid().is_root() {
            command.args(["--user", "--map-root-user"]);
        }
        command.args(["--", "/bin/sh", "-euc", ENTER, "toolroot"]).arg(&self.root);
        for (source, target) in binds {
            command.arg(source).arg(target);
        }
        command.args(["--", program]);
        command
            .env_clear()
            .env("PATH", "/usr/bin:/usr/sbin:/bin:/sbin")
            .env("LC_ALL", "C")
            .env("HOME", "/tmp");
        command
    }
}

fn key(lock: &Lock, set: Set, links: &BTreeMap<String, String>) -> String {
    let links = crate::common::digest::sha256(format!("{links:?}").as_bytes());
    format!("{:.24}-{links:.8}", lock.digest(&[set]))
}

fn make(
    cache: &Cache,
    packages: &[&Artifact],
    links: &BTreeMap<String, String>,
    root: &Path,
    ui: &Ui,
) -> Result<()> {
    for dir in
        ["usr/bin", "usr/sbin", "usr/lib", "usr/lib64", "dev", "proc", "tmp", "build", "mnt", "srv", "opt"]
    {
        let path = root.join(dir);
        fs::create_dir_all(&path).doing("creating", &path)?;
    }
    for dir in ["bin", "sbin", "lib", "lib64"] {
        symlink(format!("usr/{dir}"), root.join(dir)).doing("linking", &root.join(dir))?;
    }
    let bar = ui.bar(&format!("unpacking {} packages", packages.len()), packages.len() as u64, Unit::Count);
    parallel::map(packages, parallel::processors(), |artifact| {
        Unpacker::new(root).bound(artifact.bound()).deb(&cache.verified_blob(&artifact.sha256)?)?;
        bar.inc(1);
        Ok(())
    })?;
    drop(bar);
    for (link, target) in links {
        let path = root.join(link);
        if fs::symlink_metadata(&path).is_err() {
            symlink(target, &path).doing("linking", &path)?;
        }
    }
    Ok(())
}

/// Explains why a namespace could not be entered, from the command's output.
pub fn explain(what: &str, stderr: &str) -> Error {
    let error = Error::new(format!("{what} failed: {}", stderr.trim()));
    if stderr.contains("unshare:") {
        return error.hint(
            "allow unprivileged user namespaces: sysctl kernel.unprivileged_userns_clone=1; or run as root",
        );
    }
    error
}
