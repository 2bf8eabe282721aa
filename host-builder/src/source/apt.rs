//! Debian packages through apt, in a private state: nothing of the machine's own package system is touched, apt
//! verifies the archive's signature, and we verify each byte against the lock.

use super::apt_sources::{Archive, machine_archive};
use crate::cache::{Cache, sha256, sha256_file};
use crate::error::{Doing, Error, Result};
use crate::interrupt;
use crate::lock::Artifact;
use crate::profile;
use crate::ui::{Ui, Unit};
use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};

const RE_RESOLVE: &str = "the archive has moved on; resolve again: build-initrd --update-lock";

/// A private apt state for one archive and one set of suites.
pub struct Apt {
    state: PathBuf,
    arch: &'static str,
    /// apt gives up at once where another one works in the same state; this waits instead.
    _lock: fs::File,
}

/// States whose package lists this process has updated.
static UPDATED: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());

/// What is asked for: exactly these packages, or these with all they depend on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// These and no others.
    Exact,
    /// With their dependencies, as for an empty system.
    Closure,
}

impl Apt {
    /// Prepares the state and updates its package lists, once in the life of this process.
    pub fn open(
        cache: &Cache,
        from: &profile::Apt,
        more_suites: &[&str],
        arch: &str,
        ui: &Ui,
    ) -> Result<Self> {
        let archive = match &from.uri {
            Some(uri) => Archive { uri: uri.clone(), signed_by: None },
            None => machine_archive()?,
        };
        let sources = sources_text(&archive, from, more_suites);
        let arch = debian_arch(arch)?;
        let name = format!("{:.16}-{arch}", sha256(sources.as_bytes()));
        let lock = cache.lock(&format!("apt-{name}"))?;
        let state = cache.room(&format!("apt/{name}"))?;
        for dir in ["lists/partial", "archives/partial"] {
            fs::create_dir_all(state.join(dir)).doing("creating", &state)?;
        }
        fs::write(state.join("status"), "").doing("writing", &state)?;
        fs::write(state.join("private.sources"), sources).doing("writing", &state)?;
        let apt = Self { state, arch, _lock: lock };
        let mut updated = UPDATED.lock().unwrap_or_else(PoisonError::into_inner);
        if updated.contains(&apt.state) {
            return Ok(apt);
        }
        let bar = ui.bar("package lists", 100, Unit::Count);
        run(apt.command("apt-get").arg("update"), "updating the package lists", &mut |percent| {
            bar.set_position(percent);
        })?;
        bar.finish_and_clear();
        updated.insert(apt.state.clone());
        drop(updated);
        Ok(apt)
    }

    /// What packages resolve to: nothing is downloaded.
    pub fn resolve(&self, names: &[&str], scope: Scope, suite: &str) -> Result<Vec<Artifact>> {
        let mut command = self.command("apt-get");
        command.args(["-o", "Acquire::ForceHash=SHA256", "-qq", "-y", "-t", suite]);
        match scope {
            Scope::Exact => command.args(["download", "--print-uris"]),
            Scope::Closure => command.args(["install", "--no-install-recommends", "--print-uris"]),
        };
        let what = format!("resolving {} in {suite}", names.join(" "));
        let output = run(command.args(names), &what, &mut |_| {})?;
        let artifacts: Vec<_> = output.lines().filter_map(|line| parse_uri_line(line, suite)).collect();
        for name in names {
            if !artifacts.iter().any(|artifact| artifact.name == *name) {
                return Err(Error::new(format!("{what}: apt named no package {name} with size and SHA-256"))
                    .hint("see what the archive has: apt-cache policy"));
            }
        }
        Ok(artifacts)
    }

    /// The package that a metapackage depends on and whose name begins with `prefix`.
    pub fn dependency(&self, package: &str, prefix: &str, suite: &str) -> Result<String> {
        let what = format!("looking up {package} in {suite}");
        let output = run(
            self.command("apt-cache").args(["-t", suite, "show", "--no-all-versions", package]),
            &what,
            &mut |_| {},
        )?;
        let depends = output.lines().find_map(|line| line.strip_prefix("Depends: ")).unwrap_or_default();
        let name = depends.split(',').filter_map(|item| item.split_whitespace().next());
        let mut name = name.filter(|name| name.starts_with(prefix));
        name.next().map(str::to_owned).ok_or_else(|| {
            Error::new(format!("{package} depends on no {prefix}…: it depends on {depends:?}"))
                .hint("name the package itself in the profile")
        })
    }

    /// Downloads what is missing from the cache, each byte checked against the lock.
    pub fn fetch(&self, cache: &Cache, missing: &[&Artifact], ui: &Ui) -> Result<()> {
        let total = missing.iter().map(|artifact| artifact.size).sum();
        let bar = ui.bar(&format!("downloading {} packages", missing.len()), total, Unit::Bytes);
        let dir = cache.scratch()?;
        let wanted = missing.iter().map(|artifact| format!("{}={}", artifact.name, artifact.version));
        let mut command = self.command("apt-get");
        command.current_dir(dir.path()).args(["-q", "download"]).args(wanted);
        let result =
            run(&mut command, "downloading packages", &mut |percent| bar.set_position(total * percent / 100));
        bar.finish_and_clear();
        // What did arrive is kept even when something else failed: the next run is shorter.
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
                "apt said it downloaded {} {}, and it is not there",
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

/// Runs apt to its end. `progress` gets the percentage that apt reports on its status descriptor.
fn run(command: &mut Command, what: &str, progress: &mut dyn FnMut(u64)) -> Result<String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let (status_read, status_write) = std::io::pipe().doing("making a pipe for", Path::new(&program))?;
    let errors = tempfile::tempfile().doing("creating a temporary file for", Path::new(&program))?;
    // apt inherits descriptor 3 or whatever number the pipe has; close-on-exec must be off for it.
    let number = status_write.as_raw_fd();
    nix::fcntl::fcntl(&status_write, nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::empty()))
        .map_err(|error| Error::new("preparing apt's status pipe").source(error))?;
    let stderr = errors.try_clone().doing("preparing the output of", Path::new(&program))?;
    command.args(["-o", &format!("APT::Status-Fd={number}")]);
    command.process_group(0).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(stderr);
    let mut child = command.spawn().map_err(|error| {
        Error::new(format!("{what}: cannot run {program}"))
            .source(error)
            .hint("apt is needed: run this on Debian")
    })?;
    let _killed = interrupt::kills(&child);
    drop(status_write);
    let mut stdout = child.stdout.take().expect("it is piped");
    let reader = std::thread::spawn(move || {
        let mut text = Vec::new();
        stdout.read_to_end(&mut text).map(|_| String::from_utf8_lossy(&text).into_owned())
    });
    for line in BufReader::new(status_read).lines().map_while(std::result::Result::ok) {
        if let Some(percent) = parse_status_line(&line) {
            progress(percent);
        }
    }
    let status = child.wait().doing("waiting for", Path::new(&program))?;
    let output = reader
        .join()
        .expect("the reader does not panic")
        .doing("reading the output of", Path::new(&program))?;
    if status.success() {
        return Ok(output);
    }
    Err(failure(what, &read_back(errors)))
}

fn read_back(mut file: fs::File) -> String {
    use std::io::Seek;
    let mut text = String::new();
    let _ = file.rewind();
    let _ = file.take(64 << 10).read_to_string(&mut text);
    text
}

/// Turns what apt wrote to standard error into an error with a remedy.
fn failure(what: &str, stderr: &str) -> Error {
    let lines: Vec<_> =
        stderr.lines().filter(|line| line.starts_with("E:")).map(|line| line[2..].trim()).collect();
    let text = if lines.is_empty() { stderr.trim().to_owned() } else { lines.join("; ") };
    let text: String = text.chars().take(800).collect();
    let has = |words: &[&str]| words.iter().any(|word| stderr.contains(word));
    // apt says that it failed to fetch also where it could not write.
    let hint = if has(&["No space"]) {
        "free some space in the cache directory, or set GPU_INITRD_CACHE to another place"
    } else if has(&["was not found", "Unable to locate", "has no installation candidate", "404"]) {
        RE_RESOLVE
    } else if has(&["resolve", "connect", "Network", "timed out", "Failed to fetch"]) {
        "check the network and the machine's apt sources; what was fetched so far is kept"
    } else if has(&["NO_PUBKEY", "not signed", "GPG"]) {
        "install the archive's keys (package debian-archive-keyring), up to date"
    } else {
        "run it with the machine's own apt to see more"
    };
    Error::new(format!("{what} failed: {text}")).hint(hint)
}

fn sources_text(archive: &Archive, from: &profile::Apt, more_suites: &[&str]) -> String {
    let mut suites = vec![from.suite.as_str()];
    suites.extend(more_suites.iter().filter(|suite| **suite != from.suite));
    let mut text = format!(
        "Types: deb\nURIs: {}\nSuites: {}\nComponents: {}\n",
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
        suite: suite.into(),
        size,
        sha256,
        sets: Vec::new(),
    })
}

/// `dlstatus:1:20.0:Retrieving …` or `pmstatus:…`
fn parse_status_line(line: &str) -> Option<u64> {
    let percent: f64 = line.strip_prefix("dlstatus:")?.split(':').nth(1)?.parse().ok()?;
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    Some(percent.clamp(0.0, 100.0) as u64)
}

fn file_name(artifact: &Artifact) -> String {
    format!("{}_{}_{}.deb", artifact.name, artifact.version.replace(':', "%3a"), artifact.arch)
}

/// Moves a download into the cache when it is what the lock says.
fn keep(cache: &Cache, artifact: &Artifact, path: &Path) -> Result<()> {
    let size = fs::metadata(path).doing("reading", path)?.len();
    if size != artifact.size {
        return Err(Error::new(format!(
            "{} {}: expected {} bytes, found {size}: the download is not the package that was locked",
            artifact.name, artifact.version, artifact.size
        ))
        .hint("try again; if it stays so, resolve again: build-initrd --update-lock"));
    }
    let found = sha256_file(path)?;
    if found != artifact.sha256 {
        return Err(Error::new(format!(
            "{} {}: expected sha256 {}, found {found}",
            artifact.name, artifact.version, artifact.sha256
        ))
        .hint("the lock or the archive was altered: compare the lock with its history, or resolve again: build-initrd --update-lock"));
    }
    fs::rename(path, cache.blob(&artifact.sha256)?).doing("moving into the cache", path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_uri_line_becomes_an_artifact() {
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
    fn what_apt_says_becomes_a_remedy() {
        let gone = failure("x", "E: Version '9' for 'libcuda1' was not found\n");
        assert!(gone.remedy().unwrap().contains("--update-lock"));
        let offline = failure("x", "Err: Temporary failure resolving 'a.test'\nE: Failed to fetch\n");
        assert!(offline.remedy().unwrap().contains("network"));
        let full = failure(
            "x",
            "E: Failed to fetch http://a.test/b.deb  Error writing to file - write (28: No space left on device)\n",
        );
        assert!(full.remedy().unwrap().contains("free some space"));
    }

    #[test]
    fn progress_is_read_from_the_status_descriptor() {
        assert_eq!(parse_status_line("dlstatus:3:42.9:Retrieving file 3 of 9"), Some(42));
        assert_eq!(parse_status_line("pmstatus:x"), None);
    }

    #[test]
    fn a_download_that_differs_from_the_lock_is_not_kept() {
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
