//! Debian packages for container roots, through apt in a private state: the machine's own package system is not touched, its sources
//! tell where the archive is, and apt verifies the signatures.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use crate::{RigError, process::run};

/// An archive that the machine's apt is set up to use.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Archive {
    uri: String,
    suites: Vec<String>,
    components: Vec<String>,
    /// Key ring, where the source names one by its path.
    signed_by: Option<String>,
}

/// Downloads `packages` of `suite` with all that they depend on into `state`, a directory of its own; returns the package files, sorted.
pub fn download(suite: &str, packages: &[String], state: &Path) -> Result<Vec<PathBuf>, RigError> {
    let archive = machine_archive(Path::new("/etc"))?;
    for dir in ["lists/partial", "archives/partial"] {
        fs::create_dir_all(state.join(dir)).map_err(|e| RigError::io("create", state, e))?;
    }
    for (name, text) in [("status", String::new()), ("rig.sources", sources(&archive, suite))] {
        fs::write(state.join(name), text).map_err(|e| RigError::io("write", state.join(name), e))?;
    }
    run(apt_get(state).arg("update"))?;
    run(apt_get(state).args(["install", "--yes", "--download-only"]).args(packages))?;
    let archives = state.join("archives");
    let entries = fs::read_dir(&archives).map_err(|e| RigError::io("list", &archives, e))?;
    let mut files: Vec<_> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "deb"));
    files.sort();
    Ok(files)
}

fn apt_get(state: &Path) -> Command {
    let state = state.display();
    let mut command = Command::new("apt-get");
    for option in [
        format!("Dir::Etc::sourcelist={state}/rig.sources"),
        "Dir::Etc::sourceparts=/dev/null".into(),
        "Dir::Etc::preferences=/dev/null".into(),
        "Dir::Etc::preferencesparts=/dev/null".into(),
        format!("Dir::State={state}"),
        format!("Dir::State::Lists={state}/lists"),
        format!("Dir::State::status={state}/status"),
        format!("Dir::Cache={state}"),
        format!("Dir::Cache::archives={state}/archives"),
        "APT::Architecture=amd64".into(),
        "APT::Architectures::=amd64".into(),
        "APT::Install-Recommends=false".into(),
        // Downloads happen as who we are: apt's own user could not write to our directory.
        "APT::Sandbox::User=".into(),
        "APT::Update::Error-Mode=any".into(),
        "Acquire::Languages=none".into(),
        "Acquire::Retries=3".into(),
    ] {
        command.args(["-o", &option]);
    }
    command.env("LC_ALL", "C").env("DEBIAN_FRONTEND", "noninteractive");
    command
}

/// The sources file of the private state: the machine's archive, another suite of it.
fn sources(archive: &Archive, suite: &str) -> String {
    let keys = archive.signed_by.as_ref().map(|path| format!("Signed-By: {path}\n")).unwrap_or_default();
    format!("Types: deb\nURIs: {}\nSuites: {suite}\nComponents: main\n{keys}", archive.uri)
}

/// The archive that the machine itself was installed from: of the sources below `etc`, the first with the component `main` and the
/// suite that `os-release` names. (Updates and security fixes are other suites, other vendors' packages other components.)
fn machine_archive(etc: &Path) -> Result<Archive, RigError> {
    let release = etc.join("os-release");
    let text = fs::read_to_string(&release).map_err(|e| RigError::io("read", &release, e))?;
    let suite = text.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME=")).unwrap_or_default();
    let suite = suite.trim_matches('"');
    let archives = configured(&etc.join("apt"))?;
    let ours = |archive: &Archive| archive.suites.iter().any(|s| s == suite) && has_main(archive);
    archives.into_iter().find(ours).ok_or_else(|| RigError::Missing {
        what: format!("an apt source of suite {suite:?}, component \"main\""),
        remedy: "container roots are made from the Debian archive that the machine's own apt uses".into(),
    })
}

fn has_main(archive: &Archive) -> bool {
    archive.components.iter().any(|component| component == "main")
}

/// All binary-package sources, in apt's order.
fn configured(apt: &Path) -> Result<Vec<Archive>, RigError> {
    let parts = apt.join("sources.list.d");
    let mut files: Vec<_> = fs::read_dir(&parts)
        .map_err(|e| RigError::io("list", &parts, e))?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .collect();
    files.sort();
    let main = apt.join("sources.list");
    if main.exists() {
        files.insert(0, main);
    }
    let mut archives = Vec::new();
    for file in files {
        let extension = file.extension().and_then(|extension| extension.to_str());
        let parse = match extension {
            Some("list") => one_line,
            Some("sources") => deb822,
            _ => continue,
        };
        let text = fs::read_to_string(&file).map_err(|e| RigError::io("read", &file, e))?;
        archives.extend(parse(&text));
    }
    Ok(archives)
}

/// `deb [options] uri suite component…`, as in sources.list(5).
fn one_line(text: &str) -> Vec<Archive> {
    let parse = |line: &str| {
        let rest = line.split('#').next()?.trim().strip_prefix("deb")?;
        let rest = rest.strip_prefix([' ', '\t'])?.trim_start();
        let (options, rest) = match rest.strip_prefix('[') {
            Some(rest) => rest.split_once(']')?,
            None => ("", rest),
        };
        let mut words = rest.split_whitespace().map(str::to_owned);
        let signed_by = options.split_whitespace().find_map(|option| option.strip_prefix("signed-by="));
        Some(Archive {
            uri: words.next()?,
            suites: vec![words.next()?],
            components: words.collect(),
            signed_by: signed_by.map(str::to_owned),
        })
    };
    text.lines().filter_map(parse).collect()
}

/// Stanzas of `Field: value`, as in sources.list(5), "DEB822-STYLE FORMAT".
fn deb822(text: &str) -> Vec<Archive> {
    let text: String =
        text.lines().filter(|line| !line.starts_with('#')).flat_map(|line| [line.trim_end(), "\n"]).collect();
    text.split("\n\n").flat_map(stanza).collect()
}

fn stanza(stanza: &str) -> Vec<Archive> {
    // A line that begins with a blank goes on with the field before it.
    let unfolded = stanza.replace("\n ", " ").replace("\n\t", " ");
    let words = |name: &str| -> Vec<String> {
        let value = unfolded.lines().find_map(|line| {
            let (field, value) = line.split_once(':')?;
            field.trim().eq_ignore_ascii_case(name).then_some(value)
        });
        value.unwrap_or_default().split_whitespace().map(str::to_owned).collect()
    };
    if !words("Types").iter().any(|kind| kind == "deb") || words("Enabled").first().is_some_and(|v| v == "no")
    {
        return Vec::new();
    }
    // Anything but one path is a key in the file itself, which apt's own trust has to make up for.
    let signed_by = words("Signed-By").into_iter().next().filter(|path| path.starts_with('/'));
    let archive = |uri| Archive {
        uri,
        suites: words("Suites"),
        components: words("Components"),
        signed_by: signed_by.clone(),
    };
    words("URIs").into_iter().map(archive).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEB822: &str = "\
Types: deb deb-src
# URIs: http://commented.test/debian
URIs: http://a.test/debian
Suites: bookworm
 bookworm-updates
Components: main
Signed-By: /usr/share/keyrings/a.gpg

Enabled: no
Types: deb
URIs: http://off.test/debian
Suites: bookworm
Components: main

Types: deb
URIs: http://a.test/security
Suites: bookworm-security
Components: main
";

    fn machine(name: &str, text: &str) -> Result<Archive, RigError> {
        let etc = tempfile::tempdir().unwrap();
        fs::create_dir_all(etc.path().join("apt/sources.list.d")).unwrap();
        fs::write(etc.path().join("os-release"), "ID=debian\nVERSION_CODENAME=bookworm\n").unwrap();
        fs::write(etc.path().join("apt").join(name), text).unwrap();
        machine_archive(etc.path())
    }

    fn archive(uri: &str, suites: &[&str], components: &[&str], signed_by: Option<&str>) -> Archive {
        let owned = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect();
        let (suites, components) = (owned(suites), owned(components));
        Archive { uri: uri.into(), suites, components, signed_by: signed_by.map(str::to_owned) }
    }

    #[test]
    fn deb822_stanzas_with_comments_folding_and_disabled_ones() {
        let keys = Some("/usr/share/keyrings/a.gpg");
        assert_eq!(
            deb822(DEB822),
            [
                archive("http://a.test/debian", &["bookworm", "bookworm-updates"], &["main"], keys),
                archive("http://a.test/security", &["bookworm-security"], &["main"], None),
            ]
        );
    }

    #[test]
    fn one_line_sources_with_options_and_comments() {
        let text = "# deb http://no.test/debian x main\ndeb-src http://s.test/debian bookworm main\n\
                    deb [arch=amd64 signed-by=/k.gpg] http://b.test/debian/ bookworm main contrib # mine\ndebris\n";
        assert_eq!(
            one_line(text),
            [archive("http://b.test/debian/", &["bookworm"], &["main", "contrib"], Some("/k.gpg"))]
        );
    }

    #[test]
    fn the_archive_is_that_of_the_machines_own_release() {
        assert_eq!(machine("sources.list.d/debian.sources", DEB822).unwrap().uri, "http://a.test/debian");
        let foreign = "deb http://vendor.test/apt bookworm stable\ndeb http://c.test/debian bookworm main\n";
        assert_eq!(machine("sources.list", foreign).unwrap().uri, "http://c.test/debian");
    }

    #[test]
    fn a_machine_without_such_an_archive_is_an_error() {
        let error = machine("sources.list", "deb http://b.test/ubuntu noble main\n").unwrap_err();
        assert!(matches!(error, RigError::Missing { .. }), "{error:?}");
    }

    #[test]
    fn private_sources_take_the_place_and_the_keys_but_not_the_suite() {
        let machine = archive("http://a.test/debian", &["bookworm"], &["main"], Some("/k.gpg"));
        let expected =
            "Types: deb\nURIs: http://a.test/debian\nSuites: trixie\nComponents: main\nSigned-By: /k.gpg\n";
        assert_eq!(sources(&machine, "trixie"), expected);
    }
}
