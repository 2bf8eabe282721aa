//! Reads the machine's own apt sources, in both file formats of apt: the archive, and the trusted
//! keys.

use crate::common::error::{Error, Result};
use crate::pins::profile::Distribution;
use std::fs;
use std::path::Path;

/// An archive that the machine uses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Archive {
    /// Its address.
    pub uri: String,
    /// Key ring of the archive, if the source names one.
    pub signed_by: Option<String>,
}

/// Finds the archive for packages of a distribution in the sources in `/etc/apt`.
pub fn machine_archive(of: Distribution) -> Result<Archive> {
    machine_archive_from(Path::new("/etc/apt"), of)
}

/// [`machine_archive`] for another `/etc/apt`, in tests.
pub fn machine_archive_from(etc_apt: &Path, of: Distribution) -> Result<Archive> {
    let mut archives = Vec::new();
    let parts = etc_apt.join("sources.list.d");
    let mut files: Vec<_> = fs::read_dir(&parts)
        .map(|entries| entries.filter_map(|entry| Some(entry.ok()?.path())).collect())
        .unwrap_or_default();
    files.sort();
    files.insert(0, etc_apt.join("sources.list"));
    for file in files {
        let Ok(text) = fs::read_to_string(&file) else { continue };
        match file.extension().and_then(|extension| extension.to_str()) {
            Some("list") => archives.extend(one_line(&text)),
            Some("sources") => archives.extend(deb822(&text)),
            _ => {}
        }
    }
    // Archives of other vendors may be named `…/debian`, too, but have other components and keys.
    let mut archives: Vec<_> =
        archives.into_iter().filter(|found| found.main && is_main_of(&found.archive.uri, of)).collect();
    let keyring = format!("{}-archive", of.word());
    let own = |archive: &Archive| archive.signed_by.as_ref().is_some_and(|keys| keys.contains(&keyring));
    archives.sort_by_key(|found| !own(&found.archive));
    archives
        .into_iter()
        .map(|found| found.archive)
        .next()
        .ok_or_else(|| {
            Error::new(format!("the apt sources in {} have no {of} archive", etc_apt.display())).hint(format!(
                "run this on {of}, or name an archive and its keys in a profile of your own: [apt] uri = \"…/{}\", signed_by = \"/usr/share/keyrings/{}-archive-keyring.gpg\" (--profile FILE)",
                of.word(),
                of.word()
            ))
        })
}

/// An archive, and whether it has a distribution's own component.
struct Found {
    archive: Archive,
    main: bool,
}

/// Whether an address is that of a distribution's main archive, not that of security updates. Cloud
/// images use a list of mirrors.
fn is_main_of(uri: &str, of: Distribution) -> bool {
    let (uri, word) = (uri.trim_end_matches('/'), of.word());
    uri.ends_with(&format!("/{word}"))
        || (uri.starts_with("mirror+file:") && uri.ends_with(&format!("/{word}.list")))
}

fn one_line(text: &str) -> Vec<Found> {
    let mut archives = Vec::new();
    for line in text.lines().map(str::trim) {
        let Some(rest) = line.strip_prefix("deb").filter(|rest| rest.starts_with([' ', '\t'])) else {
            continue;
        };
        let mut rest = rest.trim_start();
        let mut signed_by = None;
        if let Some((options, after)) = rest.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            signed_by = options
                .split_whitespace()
                .find_map(|word| word.strip_prefix("signed-by="))
                .map(str::to_owned);
            rest = after;
        }
        if let Some(uri) = rest.split_whitespace().next() {
            let main = rest.split_whitespace().skip(2).any(|component| component == "main");
            archives.push(Found { archive: Archive { uri: uri.into(), signed_by }, main });
        }
    }
    archives
}

fn deb822(text: &str) -> Vec<Found> {
    let mut archives = Vec::new();
    let text: String =
        text.lines().filter(|line| !line.starts_with('#')).flat_map(|line| [line.trim_end(), "\n"]).collect();
    for stanza in text.split("\n\n") {
        let field = |name: &str| {
            stanza.lines().find_map(|line| {
                let (key, value) = line.split_once(':')?;
                key.eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
            })
        };
        let has = |name: &str, word: &str| {
            field(name).is_some_and(|value| value.split_whitespace().any(|w| w == word))
        };
        if !has("Types", "deb") || has("Enabled", "no") {
            continue;
        }
        // An empty value means that the key follows inline; then apt's own trust applies.
        let signed_by = field("Signed-By").filter(|path| path.starts_with('/'));
        for uri in field("URIs").unwrap_or_default().split_whitespace() {
            let archive = Archive { uri: uri.into(), signed_by: signed_by.clone() };
            archives.push(Found { archive, main: has("Components", "main") });
        }
    }
    archives
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(name: &str, text: &str) -> Result<Archive> {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("sources.list.d")).unwrap();
        fs::write(dir.path().join(name), text).unwrap();
        machine_archive_from(dir.path(), Distribution::Debian)
    }

    #[test]
    fn deb822_sources_are_read() {
        let archive = machine(
            "sources.list.d/debian.sources",
            "Types: deb\nURIs: http://a.test/debian-security\nSuites: x\nComponents: main\n\n\
             Types: deb\n# URIs: http://no.test/debian\nURIs: http://b.test/debian\nComponents: main\nSigned-By: /k.gpg\n",
        )
        .unwrap();
        assert_eq!(archive, Archive { uri: "http://b.test/debian".into(), signed_by: Some("/k.gpg".into()) });
    }

    #[test]
    fn one_line_sources_are_read() {
        let text = "# deb http://no.test/debian x\ndeb-src http://s.test/debian x main\n\
                    deb [arch=amd64 signed-by=/k] http://b.test/debian/ x main\n";
        let archive = machine("sources.list", text).unwrap();
        assert_eq!(archive, Archive { uri: "http://b.test/debian/".into(), signed_by: Some("/k".into()) });
    }

    #[test]
    fn other_vendors_are_skipped_and_mirror_lists_accepted() {
        let archive = machine(
            "sources.list",
            "deb [signed-by=/docker.gpg] http://v.test/linux/debian trixie stable\n\
             deb http://own.test/debian trixie main\n\
             deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] mirror+file:/etc/apt/mirrors/debian.list trixie main\n",
        )
        .unwrap();
        assert_eq!(archive.uri, "mirror+file:/etc/apt/mirrors/debian.list");
    }

    #[test]
    fn each_distribution_has_its_own_archive() {
        let dir = tempfile::tempdir().unwrap();
        let text = "deb http://p.test/someone/ubuntu noble main\n\
                    deb [signed-by=/usr/share/keyrings/ubuntu-archive-keyring.gpg] http://a.test/ubuntu/ noble main\n\
                    deb http://b.test/debian trixie main\n";
        fs::write(dir.path().join("sources.list"), text).unwrap();
        let of = |distribution| machine_archive_from(dir.path(), distribution).unwrap().uri;
        assert_eq!(of(Distribution::Ubuntu), "http://a.test/ubuntu/");
        assert_eq!(of(Distribution::Debian), "http://b.test/debian");
    }

    #[test]
    fn no_debian_archive_is_an_error_with_a_remedy() {
        let error = machine("sources.list", "deb http://b.test/ubuntu x main\n").unwrap_err();
        assert!(error.remedy().unwrap().contains("[apt] uri"));
    }
}
