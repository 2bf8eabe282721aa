//! Gets the artifacts of a lock into the cache: from a mirror directory or from their sources.

use super::sources::apt::Apt;
use super::sources::file::FileSource;
use super::sources::host::HostSource;
use super::sources::http::Http;
use super::sources::redist::Redist;
use super::sources::{Access, Offer, Source, gives};
use super::suites::{self, ARCH32, DEBIAN_ARCH32};
use crate::artifacts::cache::Cache;
use crate::common::digest::sha256_file;
use crate::common::error::{Doing, Error, Result};
use crate::common::files::write_atomically;
use crate::pins::lock::{Artifact, Lock, Set, SourceKind};
use crate::pins::profile::Profile;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Fetches the artifacts of these sets that are not in the cache yet.
pub fn fetch(profile: &Profile, lock: &Lock, sets: &[Set], access: Access) -> Result<()> {
    get(profile, lock, &lock.sets(sets), access)
}

/// Fetches the given artifacts that are not in the cache yet.
pub fn get(profile: &Profile, lock: &Lock, wanted: &[&Artifact], access: Access) -> Result<()> {
    if missing(wanted, access.cache)?.is_empty() {
        return Ok(());
    }
    let _lock = access.cache.lock("fetch")?;
    let mut rest = Vec::new();
    // Another process may have fetched some of them in the meantime.
    for artifact in missing(wanted, access.cache)? {
        if !from_mirror(artifact, access)? {
            rest.push(artifact);
        }
    }
    let network = |artifact: &&Artifact| gives(artifact.source).network;
    if access.offline && rest.iter().any(network) {
        return Err(absent(&rest, access.mirror));
    }
    for group in groups(&rest, profile, lock) {
        with_source(profile, lock, access, &group, &mut |source| source.fetch(&group))?;
    }
    Ok(())
}

/// The given artifacts that are not in the cache.
pub fn missing<'a>(wanted: &[&'a Artifact], cache: &Cache) -> Result<Vec<&'a Artifact>> {
    let mut missing = Vec::new();
    for artifact in wanted.iter().copied() {
        if !cache.has_blob(&artifact.sha256, artifact.size)? {
            missing.push(artifact);
        }
    }
    Ok(missing)
}

/// Asks the sources whether they still have their artifacts. Returns the answers in the order of
/// the lock.
pub fn offers(profile: &Profile, lock: &Lock, access: Access) -> Result<Vec<(String, Offer)>> {
    let all: Vec<_> = lock.artifact.iter().collect();
    let mut answers = Vec::new();
    for group in groups(&all, profile, lock) {
        let mut offers = Vec::new();
        with_source(profile, lock, access, &group, &mut |source| {
            offers = source.offers(&group)?;
            Ok(())
        })?;
        let named = group.iter().map(|artifact| format!("{} {}", artifact.name, artifact.version));
        answers.extend(named.zip(offers));
    }
    Ok(answers)
}

/// Path of the artifact with this digest in a mirror.
pub fn in_mirror(mirror: &Path, sha256: &str) -> PathBuf {
    mirror.join("sha256").join(sha256)
}

/// Groups of artifacts that one source fetches together.
fn groups<'a>(artifacts: &[&'a Artifact], profile: &Profile, lock: &Lock) -> Vec<Vec<&'a Artifact>> {
    let key = |artifact: &Artifact| {
        let is_apt = artifact.source == SourceKind::Apt;
        let is_of_driver = is_apt && suites::is_of_driver(artifact, profile, lock);
        (artifact.source, is_apt && artifact.arch == DEBIAN_ARCH32, is_of_driver)
    };
    let mut keys: Vec<_> = artifacts.iter().map(|artifact| key(artifact)).collect();
    keys.sort_unstable();
    keys.dedup();
    let of = |wanted| artifacts.iter().copied().filter(|artifact| key(artifact) == wanted).collect();
    keys.into_iter().map(of).collect()
}

/// The methods of a source that are called through this table.
trait Any {
    fn fetch(&self, artifacts: &[&Artifact]) -> Result<()>;
    fn offers(&self, artifacts: &[&Artifact]) -> Result<Vec<Offer>>;
}

impl<S: Source> Any for S {
    fn fetch(&self, artifacts: &[&Artifact]) -> Result<()> {
        Source::fetch(self, artifacts)
    }

    fn offers(&self, artifacts: &[&Artifact]) -> Result<Vec<Offer>> {
        Source::offers(self, artifacts)
    }
}

fn with_source(
    profile: &Profile,
    lock: &Lock,
    access: Access,
    group: &[&Artifact],
    work: &mut dyn FnMut(&dyn Any) -> Result<()>,
) -> Result<()> {
    let Some(first) = group.first() else { return Ok(()) };
    match first.source {
        SourceKind::Apt => {
            let (from, arch) = if first.arch == DEBIAN_ARCH32 {
                (suites::compat32(profile, &lock.driver)?, ARCH32)
            } else if suites::is_of_driver(first, profile, lock) {
                (suites::driver(profile, &lock.driver)?, profile.arch.as_str())
            } else {
                (suites::host(profile, &lock.driver)?, profile.arch.as_str())
            };
            work(&Apt::open(access, &from, arch)?)
        }
        SourceKind::Http => work(&Http::new(access)?),
        SourceKind::Redist => work(&Redist::new(access)?),
        SourceKind::File => work(&FileSource::new(access, &profile.directory)),
        SourceKind::Host => work(&HostSource::new(access, Some(&lock.kernel_release))),
    }
}

/// Whether an artifact is in the cache or in the mirror; copies it from the mirror. Fetches
/// nothing.
pub fn at_hand(artifact: &Artifact, access: Access) -> Result<bool> {
    Ok(access.cache.has_blob(&artifact.sha256, artifact.size)? || from_mirror(artifact, access)?)
}

/// Copies an artifact from the mirror, and checks every byte.
fn from_mirror(artifact: &Artifact, access: Access) -> Result<bool> {
    let Some(mirror) = access.mirror else { return Ok(false) };
    let path = in_mirror(mirror, &artifact.sha256);
    if !path.exists() {
        return Ok(false);
    }
    let found = sha256_file(&path)?;
    if found != artifact.sha256 {
        return Err(Error::new(format!(
            "{}: {} {} is damaged: expected sha256 {}, found {found}",
            path.display(),
            artifact.name,
            artifact.version,
            artifact.sha256
        ))
        .hint("fill the mirror again: host-builder pins vendor DIR"));
    }
    write_atomically(&access.cache.blob(&artifact.sha256)?, 0o644, |out| {
        let mut input = fs::File::open(&path).doing("opening", &path)?;
        io::copy(&mut input, out).doing("copying", &path).map(drop)
    })?;
    Ok(true)
}

fn absent(rest: &[&Artifact], mirror: Option<&Path>) -> Error {
    let names: Vec<_> =
        rest.iter().take(10).map(|artifact| format!("{} {}", artifact.name, artifact.version)).collect();
    let more = if rest.len() > names.len() {
        format!(" and {} more", rest.len() - names.len())
    } else {
        String::new()
    };
    let place =
        mirror.map_or_else(|| "the cache".to_owned(), |mirror| format!("the cache and {}", mirror.display()));
    Error::new(format!("--offline, and {place} lacks {}{more}", names.join(", ")))
        .hint("fetch them on a machine with a network: host-builder pins vendor DIR; then pass --mirror DIR")
}
