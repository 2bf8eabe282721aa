//! Where a distribution's archive is, and the keys that vouch for it. A machine has the archive of its own distribution in its sources;
//! another one is often on the same mirror, beside it. Who signs it comes from a package of the machine's own archive, so that it does not
//! matter who delivers it.

use super::super::source::{Access, Source};
use super::sources::{Archive, machine_archive};
use super::{Apt, Packages, Scope};
use crate::artifacts::unpack::Unpacker;
use crate::common::error::{Doing, Error, Result};
use crate::pins::profile::{self, Distribution};
use crate::resolve::suites::Suites;
use std::fs;
use std::path::{Path, PathBuf};

/// A place where an archive may be.
pub struct Candidate {
    /// The archive.
    pub archive: Archive,
    /// Why it may be there, for the operator; `None`: it is the machine's own, or the profile names it.
    pub why: Option<&'static str>,
}

/// The archive of a distribution that the user has named (`--archive`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedArchive {
    /// The distribution.
    pub of: Distribution,
    /// Its address.
    pub uri: String,
}

impl std::str::FromStr for NamedArchive {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let (name, uri) =
            text.split_once('=').ok_or("expected NAME=URI, such as ubuntu=https://mirror.test/ubuntu")?;
        let of = Distribution::ALL.into_iter().find(|of| of.word() == name);
        let of = of.ok_or_else(|| format!("{name}: expected debian or ubuntu"))?;
        if !uri.contains(":/") || uri.contains(char::is_whitespace) {
            return Err(format!("{uri:?}: expected the address of an archive"));
        }
        Ok(Self { of, uri: uri.to_owned() })
    }
}

/// Where the archive of a profile may be, in the order in which to ask.
pub fn candidates(from: &profile::Apt, access: Access) -> Result<Vec<Candidate>> {
    let of = from.distribution;
    if let Some(uri) = &from.uri {
        let archive = Archive { uri: uri.clone(), signed_by: from.signed_by.clone() };
        return Ok(vec![Candidate { archive, why: None }]);
    }
    let variable = format!("GPU_INITRD_ARCHIVE_{}", of.word().to_uppercase());
    let named = access.archives.iter().find(|named| named.of == of).map(|named| named.uri.clone());
    let said = std::env::var(&variable).ok().filter(|uri| !uri.is_empty());
    let said = said.map(|uri| format!("{}={uri}", of.word()).parse::<NamedArchive>());
    let said = said.transpose().map_err(|what| Error::new(format!("{variable}: {what}")))?;
    let named = named.or(said.map(|named| named.uri));
    let own = machine_archive(of);
    let places = match (named, own) {
        (Some(uri), _) => vec![(uri, "as you said")],
        (None, Ok(archive)) => return Ok(vec![Candidate { archive, why: None }]),
        (None, Err(error)) => {
            let beside = Distribution::ALL
                .into_iter()
                .filter_map(|other| beside(&machine_archive(other).ok()?.uri, of));
            let beside = beside.map(|uri| (uri, "beside the machine's own archive"));
            let public = from.public.iter().map(|uri| (uri.clone(), "the distribution's own address"));
            let places: Vec<_> = beside.chain(public).collect();
            if places.is_empty() {
                return Err(error);
            }
            places
        }
    };
    let signed_by = Some(keys(of, access)?.display().to_string());
    let at =
        |(uri, why)| Candidate { archive: Archive { uri, signed_by: signed_by.clone() }, why: Some(why) };
    Ok(places.into_iter().map(at).collect())
}

/// The error when no candidate has the archive.
pub fn none(of: Distribution, refused: &[(String, Error)]) -> Error {
    let each = refused.iter().map(|(uri, error)| format!("{uri}: {error}"));
    let word = of.word();
    let others: Vec<_> = profile::pair::PAIRS
        .iter()
        .map(|(kernel, driver)| profile::pair::name_of(kernel, driver))
        .filter(|name| profile::Profile::load(name).is_ok_and(|(profile, _)| !needs(&profile, of)))
        .map(|name| format!("--profile {name}"))
        .collect();
    let instead = if others.is_empty() {
        String::new()
    } else {
        format!("; without {of}'s archive: {}", others.join(" or "))
    };
    Error::new(format!("no archive of {of} is within reach: {}", each.collect::<Vec<_>>().join("; "))).hint(
        format!(
            "say where it is: --archive {word}=URI, or GPU_INITRD_ARCHIVE_{}=URI{instead}",
            word.to_uppercase()
        ),
    )
}

/// Whether a profile has packages of a distribution.
fn needs(profile: &profile::Profile, of: Distribution) -> bool {
    [&profile.apt, &profile.driver_apt].into_iter().flatten().any(|apt| apt.distribution == of)
}

/// The address beside another archive on the same mirror: `…/ubuntu` for `…/debian`.
fn beside(uri: &str, of: Distribution) -> Option<String> {
    let (base, last) = uri.trim_end_matches('/').rsplit_once('/')?;
    let is_archive = Distribution::ALL.into_iter().any(|other| other.word() == last && other != of);
    (is_archive && !uri.starts_with("mirror+")).then(|| format!("{base}/{}", of.word()))
}

/// The key ring of a distribution: installed on this machine, or from the package that another distribution has of it.
fn keys(of: Distribution, access: Access) -> Result<PathBuf> {
    let name = format!("usr/share/keyrings/{}-archive-keyring.gpg", of.word());
    let installed = Path::new("/").join(&name);
    if installed.is_file() {
        return Ok(installed);
    }
    let package = of.keyring();
    let (other, suite) = match of {
        Distribution::Ubuntu => (Distribution::Debian, "trixie"),
        Distribution::Debian => (Distribution::Ubuntu, "noble"),
    };
    let archive = machine_archive(other).map_err(|error| {
        Error::new(format!("no keys of {of} to check its archive with"))
            .source(error)
            .hint(format!("install them: apt install {package}"))
    })?;
    let from = profile::Apt {
        distribution: other,
        uri: Some(archive.uri),
        signed_by: archive.signed_by,
        suite: suite.into(),
        components: vec![
            "main".into(),
            if other == Distribution::Ubuntu { "universe" } else { "contrib" }.into(),
        ],
        ..profile::Apt::default()
    };
    let apt = Apt::open(access, &Suites { apt: &from, more_suites: Vec::new() }, std::env::consts::ARCH)?;
    let found = apt.resolve(Packages { names: &[package], scope: Scope::Exact, suite })?;
    let found = found.first().ok_or_else(|| Error::new(format!("{other} has no package {package}")))?;
    if !access.cache.has_blob(&found.sha256, found.size)? {
        apt.fetch(&[found])?;
    }
    let blob = access.cache.verified_blob(&found.sha256)?;
    let directory =
        access.cache.derived("keys", &found.sha256, |out| Unpacker::new(out).deb(&blob).map(drop))?;
    let keys = directory.join(&name);
    fs::metadata(&keys).doing("finding the keys in", &keys)?;
    Ok(keys)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_is_beside_one_of_another_distribution() {
        let beside = |uri| beside(uri, Distribution::Ubuntu);
        assert_eq!(beside("http://m.test/a/debian/").as_deref(), Some("http://m.test/a/ubuntu"));
        for uri in [
            "http://m.test/debian-security",
            "mirror+file:/etc/apt/mirrors/debian.list",
            "http://m.test/ubuntu",
        ] {
            assert_eq!(beside(uri), None, "{uri}");
        }
    }

    #[test]
    fn archives_are_named_by_distribution() {
        let named: NamedArchive = "ubuntu=http://m.test/u".parse().unwrap();
        assert_eq!(named, NamedArchive { of: Distribution::Ubuntu, uri: "http://m.test/u".into() });
        for text in ["ubuntu", "fedora=http://m.test/f", "ubuntu=m.test", "debian=http://m.test/a b"] {
            assert!(text.parse::<NamedArchive>().is_err(), "{text}");
        }
    }

    #[test]
    fn without_an_archive_the_error_names_what_works() {
        let refused = [("http://m.test/ubuntu".to_owned(), Error::new("404"))];
        let error = none(Distribution::Ubuntu, &refused);
        let remedy = error.remedy().unwrap();
        assert!(error.to_string().contains("http://m.test/ubuntu: 404"), "{error}");
        assert!(
            remedy.contains("--archive ubuntu=URI") && remedy.ends_with("--profile debian-13+550"),
            "{remedy}"
        );
    }
}
