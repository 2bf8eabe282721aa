//! Container roots made from Debian's packages by an ordinary user: the packages are unpacked, not
//! installed, and the files that the maintainer scripts of the essential packages create are added.
//! They have the content of a container image of the release, and the rig's probes.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use sha2::{Digest as _, Sha256};

use host_builder::artifacts::cache::Cache;
use host_builder::common::ui::Ui;
use host_builder::pins::profile;
use host_builder::resolve::sources::apt::{Apt, Packages, Scope};
use host_builder::resolve::sources::{Access, Source};
use host_builder::resolve::suites::Suites;

use crate::{RigError, process::run};

/// Changes whenever the same packages produce another root.
const RECIPE: &str = "1";
/// Roughly what `debootstrap --variant=minbase` installs, less the package manager.
const MINBASE: &[&str] = &[
    "base-files",
    "base-passwd",
    "bash",
    "bsdutils",
    "coreutils",
    "dash",
    "debianutils",
    "diffutils",
    "findutils",
    "grep",
    "gzip",
    "hostname",
    "libc-bin",
    "libc6",
    "login",
    "mawk",
    "mount",
    "ncurses-base",
    "ncurses-bin",
    "passwd",
    "procps",
    "sed",
    "tar",
    "util-linux",
];
/// Directories of a merged-/usr system: the packages of bookworm still ship files through the old
/// names.
const MERGED: &[&str] = &["bin", "sbin", "lib", "lib64"];
/// The probes, by the name they get in `/usr/local/bin`, and their sources.
const PROBES: &[(&str, &str)] =
    &[("dlopen", include_str!("../probe/dlopen.c")), ("ending", include_str!("../probe/ending.c"))];

/// A Debian release.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Suite {
    /// Debian 11, glibc 2.31. The probes are built for a newer one and do not run there.
    Bullseye,
    /// Debian 12, glibc 2.36.
    Bookworm,
    /// Debian 13, glibc 2.41.
    Trixie,
    /// What will be the next Debian, glibc 2.43 or newer.
    Testing,
}

impl Suite {
    /// Its name in the archive.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Bullseye => "bullseye",
            Self::Bookworm => "bookworm",
            Self::Trixie => "trixie",
            Self::Testing => "testing",
        }
    }
}

/// Which container root to make.
#[derive(Clone, Debug)]
pub struct Recipe {
    suite: Suite,
    packages: Vec<String>,
    i386: bool,
}

impl Recipe {
    /// A small root of `suite`, with a shell and the usual commands.
    pub fn minbase(suite: Suite) -> Self {
        Self { suite, packages: MINBASE.iter().map(|&name| name.to_owned()).collect(), i386: false }
    }

    /// With more packages, and all that they depend on.
    #[must_use]
    pub fn with(mut self, packages: &[&str]) -> Self {
        self.packages.extend(packages.iter().map(|&name| name.to_owned()));
        self.packages.sort();
        self.packages.dedup();
        self
    }

    /// With a 32-bit glibc next to the 64-bit one.
    #[must_use]
    pub fn with_i386(mut self) -> Self {
        self.i386 = true;
        self
    }

    /// The directory with this root, made at the first call and kept in the user's cache directory.
    /// Never write to it.
    pub fn directory(&self) -> Result<PathBuf, RigError> {
        let rig = Cache::open()?.room("rig")?;
        let root = rig.join("roots").join(format!("{}-{}", self.suite.name(), self.digest()));
        if root.is_dir() {
            return Ok(root);
        }
        let roots = rig.join("roots");
        fs::create_dir_all(&roots).map_err(|e| RigError::io("create", &roots, e))?;
        let work = tempfile::Builder::new().prefix(".new-").tempdir_in(&roots);
        let work = work.map_err(|e| RigError::io("make a directory in", &roots, e))?;
        let new = work.path().join("root");
        self.make(&new)?;
        match fs::rename(&new, &root) {
            // Another test has made the same root meanwhile.
            Err(_) if root.is_dir() => Ok(root),
            done => done.map(|()| root.clone()).map_err(|e| RigError::io("rename to", &root, e)),
        }
    }

    /// The digest of the request, not of the archive's current content: tests are quick and work
    /// offline once the root exists.
    fn digest(&self) -> String {
        let mut hash = Sha256::new();
        let probes = PROBES.iter().flat_map(|&(name, source)| [name, source]);
        let words = [RECIPE, self.suite.name()]
            .into_iter()
            .chain(self.packages.iter().map(String::as_str))
            .chain(self.i386.then_some("i386"))
            .chain(probes);
        for word in words {
            hash.update(word.as_bytes());
            hash.update([0]);
        }
        hash.finalize().iter().take(8).fold(String::new(), |text, byte| format!("{text}{byte:02x}"))
    }

    /// The packages and all that they depend on, in the user's cache.
    fn download(&self) -> Result<Vec<PathBuf>, RigError> {
        let names: Vec<_> = self.packages.iter().map(String::as_str).collect();
        let mut packages = self.fetch(std::env::consts::ARCH, &names, Scope::Closure)?;
        if self.i386 {
            packages.extend(self.fetch("i686", &["libc6"], Scope::Exact)?);
        }
        Ok(packages)
    }

    fn fetch(&self, arch: &str, names: &[&str], scope: Scope) -> Result<Vec<PathBuf>, RigError> {
        let (cache, ui, suite) = (Cache::open()?, Ui::new(false), self.suite.name());
        let from =
            profile::Apt { suite: suite.into(), components: vec!["main".into()], ..profile::Apt::default() };
        let apt = Apt::open(Access::new(&cache, &ui), &Suites { apt: &from, more_suites: Vec::new() }, arch)?;
        let artifacts = apt.resolve(Packages { names, scope, suite })?;
        let mut missing = Vec::new();
        for artifact in &artifacts {
            if !cache.has_blob(&artifact.sha256, artifact.size)? {
                missing.push(artifact);
            }
        }
        if !missing.is_empty() {
            apt.fetch(&missing)?;
        }
        artifacts.iter().map(|artifact| Ok(cache.verified_blob(&artifact.sha256)?)).collect()
    }

    fn make(&self, root: &Path) -> Result<(), RigError> {
        let packages = self.download()?;
        for dir in MERGED {
            let target = root.join("usr").join(dir);
            fs::create_dir_all(&target).map_err(|e| RigError::io("create", &target, e))?;
            symlink(format!("usr/{dir}"), root.join(dir))
                .map_err(|e| RigError::io("link", root.join(dir), e))?;
        }
        for package in &packages {
            unpack(package, root)?;
        }
        configure(root)?;
        probes(root)?;
        ldconfig(root)
    }
}

/// Unpacks a package. tar, because dpkg-deb's own extraction replaces the links of the merged /usr
/// by directories.
fn unpack(package: &Path, root: &Path) -> Result<(), RigError> {
    let mut dpkg = Command::new("dpkg-deb");
    let mut dpkg = dpkg
        .arg("--fsys-tarfile")
        .arg(package)
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|source| RigError::Start { program: "dpkg-deb".into(), source })?;
    let stream = dpkg.stdout.take().expect("it is piped");
    let mut tar = Command::new("tar");
    tar.args([
        "--extract",
        "--file",
        "-",
        "--keep-directory-symlink",
        "--no-same-owner",
        "--preserve-permissions",
    ]);
    let unpacked = tar.arg("--directory").arg(root).stdin(stream).status();
    let status = dpkg.wait().map_err(|source| RigError::Start { program: "dpkg-deb".into(), source })?;
    let unpacked = unpacked.map_err(|source| RigError::Start { program: "tar".into(), source })?;
    for (program, status) in [("dpkg-deb --fsys-tarfile", status), ("tar --extract", unpacked)] {
        if !status.success() {
            let program = format!("{program} {}", package.display());
            return Err(RigError::Failed { program, status, output: String::new() });
        }
    }
    Ok(())
}

/// What the maintainer scripts of base-files, base-passwd, dash and mawk do.
fn configure(root: &Path) -> Result<(), RigError> {
    for name in ["passwd", "group"] {
        let master = root.join("usr/share/base-passwd").join(format!("{name}.master"));
        fs::copy(&master, root.join("etc").join(name)).map_err(|e| RigError::io("copy", &master, e))?;
    }
    for (link, target) in
        [("usr/bin/sh", "dash"), ("usr/bin/awk", "mawk"), ("etc/mtab", "../proc/self/mounts")]
    {
        let path = root.join(link);
        if fs::symlink_metadata(&path).is_err() {
            symlink(target, &path).map_err(|e| RigError::io("link", &path, e))?;
        }
    }
    for (file, text) in [("etc/hostname", "container\n"), ("etc/resolv.conf", ""), ("etc/machine-id", "")] {
        fs::write(root.join(file), text).map_err(|e| RigError::io("write", root.join(file), e))?;
    }
    for dir in ["dev", "proc", "sys", "run", "tmp", "root", "usr/local/bin"] {
        fs::create_dir_all(root.join(dir)).map_err(|e| RigError::io("create", root.join(dir), e))?;
    }
    Ok(())
}

/// Compiles the probes with the machine's C compiler; they use nothing that the oldest release's C
/// library lacks.
fn probes(root: &Path) -> Result<(), RigError> {
    for (name, source) in PROBES {
        let file = root.join("usr/local/bin").join(format!("{name}.c"));
        fs::write(&file, source).map_err(|e| RigError::io("write", &file, e))?;
        let program = file.with_extension("");
        run(Command::new("cc").args(["-O1", "-Wall", "-Wextra", "-Werror", "-o"]).arg(program).arg(&file))?;
        fs::remove_file(&file).map_err(|e| RigError::io("remove", &file, e))?;
    }
    Ok(())
}

/// The loader cache, as the root's own ldconfig writes it.
fn ldconfig(root: &Path) -> Result<(), RigError> {
    let mut command = Command::new("unshare");
    command.args(["--map-root-user", "--", "chroot"]).arg(root).arg("/usr/sbin/ldconfig");
    run(command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin"))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recipe_digest_ignores_the_order_of_packages() {
        let recipe = |packages: &[&str]| Recipe::minbase(Suite::Trixie).with(packages).digest();
        assert_eq!(recipe(&["a", "b"]), recipe(&["b", "a", "bash"]));
        assert_ne!(recipe(&["a"]), recipe(&["b"]));
        assert_ne!(Recipe::minbase(Suite::Bookworm).digest(), Recipe::minbase(Suite::Trixie).digest());
        assert_eq!(recipe(&[]).len(), 16);
    }
}
