//! Debian packages through apt with private state. The machine's own package system is not touched,
//! apt verifies the signature of the archive, and we check each byte against the lock.

mod archives;
mod records;
mod run;
mod sources;

use self::archives::Candidate;
pub use self::archives::NamedArchive;
use self::records::{Record, records};
use self::run::{LISTS, LOCAL, RE_RESOLVE, longest, run};
pub use self::sources::{Archive, machine_archive};
use super::source::{Access, Offer, Source, check};
use crate::artifacts::cache::Cache;
use crate::common::digest::{sha256, sha256_file};
use crate::common::error::{Doing, Error, Result};
use crate::common::ui::Unit;
use crate::pins::lock::{Artifact, Digest, SourceKind};
use crate::resolve::suites::Suites;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};

/// A private apt state for one archive and one set of suites.
pub struct Apt<'a> {
    access: Access<'a>,
    state: PathBuf,
    arch: &'static str,
    /// apt fails immediately if another apt uses the same state; this lock waits instead.
    _lock: fs::File,
}

/// States whose package lists this process has updated.
static UPDATED: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());

/// Whether to include dependencies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Only the given packages.
    Exact,
    /// With their dependencies, as for an empty system.
    Closure,
}

/// Packages to resolve.
#[derive(Debug, Clone, Copy)]
pub struct Packages<'a> {
    /// Names; `NAME=VERSION` selects a version.
    pub names: &'a [&'a str],
    /// With their dependencies or without.
    pub scope: Scope,
    /// The preferred suite.
    pub suite: &'a str,
}

impl<'a> Apt<'a> {
    /// Finds the archive, prepares the state and updates its package lists, once per process.
    ///
    /// # Errors
    /// Why no place where the archive may be has it, with a valid signature.
    pub fn open(access: Access<'a>, from: &Suites, arch: &str) -> Result<Self> {
        access.online("asking the package archive")?;
        let mut refused = Vec::new();
        for Candidate { archive, why } in archives::candidates(from.apt, access)? {
            match (Self::at(access, &archive, why, from, arch), why) {
                (Err(error), Some(_)) => refused.push((archive.uri, error)),
                (result, _) => return result,
            }
        }
        Err(archives::none(from.apt.distribution, &refused))
    }

    fn at(
        access: Access<'a>,
        archive: &Archive,
        why: Option<&str>,
        from: &Suites,
        arch: &str,
    ) -> Result<Self> {
        let (cache, ui) = (access.cache, access.ui);
        let sources = sources_text(archive, from);
        let arch = debian_arch(arch)?;
        let name = format!("{:.16}-{arch}", sha256(sources.as_bytes()));
        let lock = cache.lock(&format!("apt-{name}"))?;
        let state = cache.room(&format!("apt/{name}"))?;
        for dir in ["lists/partial", "archives/partial"] {
            fs::create_dir_all(state.join(dir)).doing("creating", &state)?;
        }
        fs::write(state.join("status"), "").doing("writing", &state)?;
        fs::write(state.join("private.sources"), sources).doing("writing", &state)?;
        let apt = Self { access, state, arch, _lock: lock };
        // Not held while apt runs: nobody else updates this state, because we hold its lock.
        let updated = || UPDATED.lock().unwrap_or_else(PoisonError::into_inner);
        if updated().contains(&apt.state) {
            return Ok(apt);
        }
        let bar = ui.bar(&format!("package lists of {}, {arch}", from.apt.suite), 100, Unit::Count);
        run(apt.command("apt-get").arg("update"), "updating the package lists", LISTS, &mut |percent| {
            bar.set_position(percent);
        })?;
        drop(bar);
        if let Some(why) = why {
            ui.line(format!("{}'s archive: {} ({why})", from.apt.distribution, archive.uri));
        }
        updated().insert(apt.state.clone());
        Ok(apt)
    }

    /// The versions of packages that the suites offer, newest first.
    pub fn versions<'n>(&self, names: &BTreeSet<&'n str>) -> Result<BTreeMap<&'n str, Vec<String>>> {
        let records = self.records(names)?;
        let of = |name: &str| {
            let versions = records.iter().filter(|record| record.name == name);
            versions.map(|record| record.version.clone()).collect()
        };
        Ok(names.iter().map(|name| (*name, of(name))).collect())
    }

    /// The records of these packages in the package lists, in all versions.
    fn records(&self, names: &BTreeSet<&str>) -> Result<Vec<Record>> {
        let mut command = self.command("apt-cache");
        match run(command.arg("show").args(names), "reading the package lists", LOCAL, &mut |_| {}) {
            Ok(text) => Ok(records(&text)),
            // None of them exists.
            Err(error) if error.to_string().contains("No packages found") => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    /// Sets the maximum unpacked size of each package: twice its Installed-Size, because the
    /// publisher may have measured it on a compressing file system.
    fn bound(&self, artifacts: &mut [Artifact]) -> Result<()> {
        let records = self.records(&artifacts.iter().map(|artifact| artifact.name.as_str()).collect())?;
        for artifact in artifacts {
            let record = records.iter().find(|record| record.sha256 == artifact.sha256);
            artifact.unpacked = record.and_then(|record| record.installed).map(|bytes| bytes * 2 + (1 << 20));
        }
        Ok(())
    }

    /// The dependency of a metapackage whose name starts with `prefix`.
    pub fn dependency(&self, package: &str, prefix: &str, suite: &str) -> Result<String> {
        let what = format!("resolving {package} in {suite}");
        let output = run(
            self.command("apt-cache").args(["-t", suite, "show", "--no-all-versions", package]),
            &what,
            LOCAL,
            &mut |_| {},
        )?;
        let depends = output.lines().find_map(|line| line.strip_prefix("Depends: ")).unwrap_or_default();
        let name = depends.split(',').filter_map(|item| item.split_whitespace().next());
        let mut name = name.filter(|name| name.starts_with(prefix));
        name.next().map(str::to_owned).ok_or_else(|| {
            Error::new(format!("{package} has no dependency {prefix}…: it depends on {depends:?}"))
                .hint("name the package itself in the profile")
        })
    }

    fn download(&self, missing: &[&Artifact]) -> Result<()> {
        let Access { cache, ui, .. } = self.access;
        let total = missing.iter().map(|artifact| artifact.size).sum();
        let bar = ui.bar(&format!("downloading {} packages", missing.len()), total, Unit::Bytes);
        let dir = cache.scratch()?;
        let wanted = missing.iter().map(|artifact| format!("{}={}", artifact.name, artifact.version));
        let mut command = self.command("apt-get");
        command.current_dir(dir.path()).args(["-q", "download"]).args(wanted);
        let result = run(&mut command, "downloading packages", longest(total), &mut |percent| {
            bar.set_position(total * percent / 100);
        });
        drop(bar);
        // Successful downloads are kept even if another one failed, so the next run is shorter.
        let mut kept = Ok(());
        for artifact in missing {
            let path = dir.path().join(file_name(artifact));
            if path.exists() {
                kept = kept.and(keep(cache, artifact, &path));
            }
        }
        result?;
        kept?;
        let absent =
            missing.iter().find(|artifact| cache.blob(&artifact.sha256).is_ok_and(|path| !path.exists()));
        match absent {
            None => Ok(()),
            Some(artifact) => Err(Error::new(format!(
                "apt reported that it downloaded {} {}, but the file is not there",
                artifact.name, artifact.version
            ))
            .hint(RE_RESOLVE)),
        }
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        let state = self.state.display();
        let user = nix::unistd::User::from_uid(nix::unistd::geteuid());
        let user = user.ok().flatten().map_or_else(|| "root".to_owned(), |user| user.name);
        for option in [
            format!("Dir::Etc::sourcelist={state}/private.sources"),
            "Dir::Etc::sourceparts=/dev/null".into(),
            "Dir::Etc::preferences=/dev/null".into(),
            "Dir::Etc::preferencesparts=/dev/null".into(),
            format!("Dir::State={state}"),
            format!("Dir::State::Lists={state}/lists"),
            format!("Dir::State::status={state}/status"),
            format!("Dir::Cache={state}"),
            format!("Dir::Cache::archives={state}/archives"),
            format!("APT::Architecture={}", self.arch),
            format!("APT::Architectures::={}", self.arch),
            format!("APT::Sandbox::User={user}"),
            "APT::Install-Recommends=false".into(),
            "Acquire::Languages=none".into(),
            "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false".into(),
            "Acquire::IndexTargets::deb::DEP-11-icons-small::DefaultEnabled=false".into(),
            "Acquire::IndexTargets::deb::DEP-11-icons::DefaultEnabled=false".into(),
            "Acquire::Retries=3".into(),
            "Acquire::http::Timeout=30".into(),
            "Acquire::https::Timeout=30".into(),
            "APT::Update::Error-Mode=any".into(),
        ] {
            command.args(["-o", &option]);
        }
        command.env("LC_ALL", "C").env("DEBIAN_FRONTEND", "noninteractive");
        command
    }
}

impl Source for Apt<'_> {
    type Query<'w> = Packages<'w>;

    /// Downloads nothing.
    fn resolve(&self, wanted: Packages) -> Result<Vec<Artifact>> {
        let Packages { names, scope, suite } = wanted;
        let mut command = self.command("apt-get");
        command.args(["-o", "Acquire::ForceHash=SHA256", "-qq", "-y", "-t", suite]);
        match scope {
            Scope::Exact => command.args(["download", "--print-uris"]),
            Scope::Closure => command.args(["install", "--no-install-recommends", "--print-uris"]),
        };
        let what = format!("resolving {} in {suite}", names.join(" "));
        let output = run(command.args(names), &what, LOCAL, &mut |_| {})?;
        let mut artifacts: Vec<_> = output.lines().filter_map(|line| parse_uri_line(line, suite)).collect();
        for name in names {
            let name = name.split('=').next().unwrap_or(name);
            if !artifacts.iter().any(|artifact| artifact.name == name) {
                return Err(Error::new(format!("{what}: apt named no package {name} with size and SHA-256"))
                    .hint("check which versions the archive has: apt-cache policy"));
            }
        }
        self.bound(&mut artifacts)?;
        Ok(artifacts)
    }

    /// One apt fetches all packages over one connection. Several at a time were slower (60
    /// packages, 92 MB: 5.8 s with four of them, 3.6 s with one), because each reads all package
    /// lists first.
    fn fetch(&self, artifacts: &[&Artifact]) -> Result<()> {
        self.download(artifacts)
    }

    fn offers(&self, artifacts: &[&Artifact]) -> Result<Vec<Offer>> {
        let records = self.records(&artifacts.iter().map(|artifact| artifact.name.as_str()).collect())?;
        let offer = |artifact: &&Artifact| {
            let of_name: Vec<_> = records.iter().filter(|record| record.name == artifact.name).collect();
            if of_name.iter().any(|record| record.sha256 == artifact.sha256) {
                return Offer::Yes;
            }
            let versions: Vec<_> = of_name.iter().map(|record| record.version.as_str()).collect();
            Offer::No(if versions.is_empty() {
                "the archive no longer has a package with that name".into()
            } else if versions.contains(&artifact.version.as_str()) {
                "the archive has another file with this version".into()
            } else {
                format!("the archive has {} now", versions.join(", "))
            })
        };
        Ok(artifacts.iter().map(offer).collect())
    }
}

fn sources_text(archive: &Archive, of: &Suites) -> String {
    let from = of.apt;
    let mut suites = vec![from.suite.as_str()];
    for suite in from.base_suites.iter().map(String::as_str).chain(of.more_suites.iter().copied()) {
        if !suites.contains(&suite) {
            suites.push(suite);
        }
    }
    // The distribution is said so that two archives of one profile at one address are two states: each is locked.
    let mut text = format!(
        "# {}\nTypes: deb\nURIs: {}\nSuites: {}\nComponents: {}\n",
        from.distribution,
        archive.uri,
        suites.join(" "),
        from.components.join(" ")
    );
    if let Some(keys) = &archive.signed_by {
        text.push_str(&format!("Signed-By: {keys}\n"));
    }
    text
}

fn debian_arch(arch: &str) -> Result<&'static str> {
    match arch {
        "x86_64" => Ok("amd64"),
        "i686" => Ok("i386"),
        "aarch64" => Ok("arm64"),
        other => Err(Error::new(format!("architecture {other:?}: expected x86_64 or aarch64"))),
    }
}

/// `'URI' name_version_arch.deb SIZE SHA256:HEX`
fn parse_uri_line(line: &str, suite: &str) -> Option<Artifact> {
    let mut words = line.strip_prefix('\'')?.split_once("' ")?.1.split_whitespace();
    let mut name = words.next()?.strip_suffix(".deb")?.split('_');
    let size = words.next()?.parse().ok()?;
    let sha256 = words.next()?.strip_prefix("SHA256:")?.to_owned();
    let (package, version, arch) = (name.next()?, name.next()?, name.next()?);
    Some(Artifact {
        name: package.into(),
        version: version.replace("%3a", ":"),
        arch: arch.into(),
        source: SourceKind::Apt,
        url: None,
        suite: suite.into(),
        size,
        unpacked: None,
        sha256,
        digest: Digest::Publisher,
        only: Vec::new(),
        sets: Vec::new(),
    })
}

fn file_name(artifact: &Artifact) -> String {
    format!("{}_{}_{}.deb", artifact.name, artifact.version.replace(':', "%3a"), artifact.arch)
}

/// Moves a download into the cache if it matches the lock.
fn keep(cache: &Cache, artifact: &Artifact, path: &Path) -> Result<()> {
    let size = fs::metadata(path).doing("reading", path)?.len();
    check(artifact, size, &sha256_file(path)?)?;
    fs::rename(path, cache.blob(&artifact.sha256)?).doing("moving into the cache", path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uri_line_becomes_an_artifact() {
        let sha256 = "a".repeat(64);
        let line = format!("'http://x.test/y' gcc_4%3a14.2.0-1_amd64.deb 1433 SHA256:{sha256}");
        let artifact = parse_uri_line(&line, "trixie").unwrap();
        assert_eq!((artifact.name.as_str(), artifact.version.as_str()), ("gcc", "4:14.2.0-1"));
        assert_eq!((artifact.arch.as_str(), artifact.size), ("amd64", 1433));
        assert_eq!(file_name(&artifact), "gcc_4%3a14.2.0-1_amd64.deb");
        assert!(parse_uri_line("'http://x.test/y' gcc_1_amd64.deb 1433 MD5Sum:00", "s").is_none());
        assert!(parse_uri_line("Reading package lists...", "s").is_none());
    }

    #[test]
    fn download_that_differs_from_the_lock_is_not_kept() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::at(&dir.path().join("cache")).unwrap();
        let path = dir.path().join("x.deb");
        fs::write(&path, "hello").unwrap();
        let mut artifact =
            parse_uri_line(&format!("'u' x_1_all.deb 5 SHA256:{}", "0".repeat(64)), "s").unwrap();
        let error = keep(&cache, &artifact, &path).unwrap_err().to_string();
        assert!(error.contains("expected sha256 0000") && error.contains("found 2cf24dba"), "{error}");
        artifact.size = 6;
        assert!(
            keep(&cache, &artifact, &path).unwrap_err().to_string().contains("expected 6 bytes, found 5")
        );
        assert_eq!(fs::read_dir(cache.room("blobs/sha256").unwrap()).unwrap().count(), 0);
    }
}
