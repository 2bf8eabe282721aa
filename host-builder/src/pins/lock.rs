//! Locks: what a profile resolved to, with name, version, source, size and SHA-256 of each
//! artifact. They are TOML in a stable order, to be reviewed and committed. An artifact from an
//! address has the address in the lock. Packages have none, because the machine that fetches them
//! may use another archive.

pub use super::artifact::{Artifact, Digest, SourceKind};
pub use super::set::Set;

use crate::common::digest::sha256;
use crate::common::error::{Doing, Error, Result};
use crate::common::files::Staged;
use crate::common::plain;
use crate::initramfs::file_type;
use serde::{Deserialize, Serialize};
use std::cmp::Ordering;
use std::io::{ErrorKind, Write};
use std::path::Path;

/// Version of the lock format. Locks of other formats are refused.
pub const FORMAT: u32 = 3;

/// What a profile resolved to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lock {
    /// [`FORMAT`].
    pub format: u32,
    /// Name of the profile.
    pub profile: String,
    /// SHA-256 of the profile's text. A changed profile needs a new lock.
    pub profile_sha256: String,
    /// Value of `{kernel}` in the profile's addresses, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel: Option<String>,
    /// Release of the kernel.
    pub kernel_release: String,
    /// Version of the driver. The lock decides it, not the profile.
    pub driver: String,
    /// Artifacts, sorted by name.
    pub artifact: Vec<Artifact>,
}

#[derive(Deserialize)]
struct Head {
    format: u32,
}

impl Lock {
    /// An empty lock of a profile.
    pub fn new(profile: &str, profile_text: &str, kernel_release: String, driver: String) -> Self {
        Self {
            format: FORMAT,
            profile: profile.into(),
            profile_sha256: sha256(profile_text.as_bytes()),
            kernel: None,
            kernel_release,
            driver,
            artifact: Vec::new(),
        }
    }

    /// Adds artifacts of one set. An existing artifact gets the set added.
    pub fn add(&mut self, set: Set, artifacts: Vec<Artifact>) {
        for mut new in artifacts {
            let same = |old: &&mut Artifact| old.sha256 == new.sha256 && old.only == new.only;
            match self.artifact.iter_mut().find(same) {
                Some(old) if old.sets.contains(&set) => {}
                Some(old) => old.sets.push(set),
                None => {
                    new.sets = vec![set];
                    self.artifact.push(new);
                }
            }
        }
        self.artifact.sort_by(|a, b| a.key().cmp(&b.key()));
    }

    /// Artifacts of one set, sorted by name.
    pub fn set(&self, set: Set) -> Vec<&Artifact> {
        self.sets(&[set])
    }

    /// Artifacts of any of these sets, each once, sorted by name.
    pub fn sets(&self, sets: &[Set]) -> Vec<&Artifact> {
        let wanted = |artifact: &&Artifact| artifact.sets.iter().any(|set| sets.contains(set));
        self.artifact.iter().filter(wanted).collect()
    }

    /// The package of this name in a set.
    pub fn package(&self, set: Set, name: &str) -> Result<&Artifact> {
        self.set(set).into_iter().find(|artifact| artifact.name == name).ok_or_else(|| {
            Error::new(format!("the lock has no package {name}, which profile {} needs", self.profile))
                .hint("resolve again: build-initrd --update-lock")
        })
    }

    /// Digest of everything in some sets: the key of what is derived from them.
    pub fn digest(&self, sets: &[Set]) -> String {
        let mut text = String::new();
        for artifact in self.sets(sets) {
            text.push_str(&artifact.tree_key());
            text.push('\n');
        }
        sha256(text.as_bytes())
    }

    /// Reads a lock, if there is one.
    pub fn read(path: &Path) -> Result<Option<Self>> {
        let text = match plain::given(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) if matches!(error.kind(), ErrorKind::IsADirectory | ErrorKind::InvalidData) => {
                return Err(not_a_lock(path));
            }
            result => result.doing("reading the lock", path)?,
        };
        let remedy = "restore it, or resolve again: build-initrd --update-lock";
        let malformed = |error: toml::de::Error| match file_type::describe(path) {
            "a lock" => Error::new(format!("{} is damaged", path.display())).source(error).hint(remedy),
            _ => not_a_lock(path).source(error),
        };
        // A lock in another format may have any content, so the format is checked first.
        let head: Head = toml::from_str(&text).map_err(malformed)?;
        if head.format != FORMAT {
            return Err(other_format(path, head.format));
        }
        let lock: Self = toml::from_str(&text).map_err(malformed)?;
        let usable = |artifact: &Artifact| {
            let found = artifact.url.is_some() || artifact.source == SourceKind::Apt;
            is_digest(&artifact.sha256) && is_plain(&artifact.name) && found
        };
        if let Some(bad) = lock.artifact.iter().find(|artifact| !usable(artifact)) {
            let message =
                format!("{}: artifact {:?} has no usable name, sha256 and address", path.display(), bad.name);
            return Err(Error::new(message).hint(remedy));
        }
        lock.check_driver(path)?;
        Ok(Some(lock))
    }

    /// Checks that packages of the modules' source and of the firmware have the driver's version.
    fn check_driver(&self, path: &Path) -> Result<()> {
        let of_driver = self.sets(&[Set::ModuleSource, Set::Firmware]).into_iter();
        let other = of_driver
            .filter(|artifact| artifact.source == SourceKind::Apt)
            .find(|artifact| upstream(&artifact.version) != self.driver);
        match other {
            None => Ok(()),
            Some(artifact) => Err(Error::new(format!(
                "{} is for driver {}, but its package {} is for {}",
                path.display(),
                self.driver,
                artifact.name,
                upstream(&artifact.version)
            ))
            .hint("the lock was altered: restore it, or resolve again: build-initrd --update-lock")),
        }
    }

    /// Fails if the lock was resolved from another profile, or another version of this one.
    pub fn check_profile(&self, name: &str, text: &str, path: &Path) -> Result<()> {
        let found = sha256(text.as_bytes());
        if self.profile == name && self.profile_sha256 == found {
            return Ok(());
        }
        Err(Error::new(format!(
            "{} was resolved for driver {} from profile {} with digest {:.12}, but the profile to build is {name} with digest {found:.12}",
            path.display(),
            self.driver,
            self.profile,
            self.profile_sha256,
        ))
        .hint(
            "resolve again: build-initrd --update-lock, with --driver to stay with a branch; or pass the lock of the profile: --lock FILE",
        ))
    }

    /// The lock as text.
    pub fn to_toml(&self) -> String {
        let body = toml::to_string(self).expect("a lock holds nothing that TOML cannot");
        format!(
            "# Made by host-builder. Every artifact of the image and of its build, pinned. Commit it.\n{body}"
        )
    }

    /// Stages the file for `path`.
    pub fn stage(&self, path: &Path) -> Result<Staged> {
        Staged::new(path, 0o644, |file| file.write_all(self.to_toml().as_bytes()).doing("writing", path))
    }
}

/// The upstream part of a package version: `550.163.01` of `1:550.163.01-4~bpo13+1`.
pub fn upstream(version: &str) -> &str {
    let version = version.rsplit_once('-').map_or(version, |(upstream, _)| upstream);
    version.split_once(':').map_or(version, |(_, upstream)| upstream)
}

/// The order of two versions: `550.90` comes before `550.163.01`.
pub fn by_number(one: &str, other: &str) -> Ordering {
    // The newest of a branch: 580.x.
    let number = |part: &str| if part == "x" { u64::MAX } else { part.parse().unwrap_or(0) };
    let numbers = |text: &str| text.split('.').map(number).collect::<Vec<_>>();
    numbers(one).cmp(&numbers(other)).then_with(|| one.cmp(other))
}

/// Whether a text is a SHA-256, lower-case hex.
pub fn is_digest(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// Whether a text is valid as the name of an artifact and of a file.
pub fn is_plain(name: &str) -> bool {
    !name.is_empty()
        && !name.starts_with('.')
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-._".contains(&byte))
}

fn other_format(path: &Path, found: u32) -> Error {
    let message = format!("{} has lock format {found} (expected {FORMAT})", path.display());
    Error::new(message).hint(if found > FORMAT {
        "use the host-builder of the release that wrote it, or a later one; or resolve again with this one: build-initrd --update-lock"
    } else {
        "resolve again: build-initrd --update-lock"
    })
}

fn not_a_lock(path: &Path) -> Error {
    Error::new(format!("{}: expected a lock, found {}", path.display(), file_type::describe(path)))
        .hint("pass the lock, such as initrd.lock, or resolve again: build-initrd --update-lock")
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::pins::lock_diff::Changes;
    use image::capability::Capability;

    /// A package of one byte.
    pub(crate) fn artifact(name: &str, digit: char) -> Artifact {
        Artifact {
            name: name.into(),
            version: "1".into(),
            arch: "amd64".into(),
            source: SourceKind::Apt,
            url: None,
            suite: "s".into(),
            size: 1,
            unpacked: None,
            sha256: digit.to_string().repeat(64),
            digest: Digest::Publisher,
            only: vec![],
            sets: vec![],
        }
    }

    #[test]
    fn versions_are_compared_by_number() {
        assert_eq!(by_number("550.90.07", "550.163.01"), Ordering::Less);
        assert_eq!(by_number("570.86.16", "570.86.16"), Ordering::Equal);
    }

    #[test]
    fn order_of_adding_does_not_matter() {
        let mut one = Lock::new("p", "text", "r".into(), "d".into());
        one.add(Set::Kernel, vec![artifact("b", 'b')]);
        one.add(Set::Toolroot, vec![artifact("a", 'a'), artifact("b", 'b')]);
        let mut two = Lock::new("p", "text", "r".into(), "d".into());
        two.add(Set::Kernel, vec![artifact("b", 'b')]);
        two.add(Set::Toolroot, vec![artifact("b", 'b'), artifact("a", 'a')]);
        assert_eq!(one.to_toml(), two.to_toml());
        assert_eq!(one.set(Set::Toolroot).len(), 2);
    }

    #[test]
    fn lock_of_a_newer_format_names_both_and_the_remedy() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("initrd.lock");
        std::fs::write(&path, "format = 99\nanything = {}\n").unwrap();
        let error = Lock::read(&path).unwrap_err();
        assert!(error.to_string().ends_with("has lock format 99 (expected 3)"), "{error}");
        assert!(error.remedy().unwrap().contains("or a later one"), "{:?}", error.remedy());
    }

    #[test]
    fn unknown_key_in_a_lock_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("initrd.lock");
        let lock = Lock::new("p", "text", "r".into(), "d".into());
        std::fs::write(&path, lock.to_toml().replace("format = 3", "format = 3\nnew = 1")).unwrap();
        let error = Lock::read(&path).unwrap_err().chain();
        assert!(error.contains("unknown field `new`"), "{error}");
    }

    #[test]
    fn lock_of_an_older_format_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("initrd.lock");
        let mut lock = Lock::new("p", "text", "r".into(), "d".into());
        lock.add(Set::Userspace(Capability::Compute), vec![artifact("a", 'a')]);
        let old =
            lock.to_toml().replace("format = 3", "format = 1").replace("userspace-compute", "userspace");
        std::fs::write(&path, old).unwrap();
        let error = Lock::read(&path).unwrap_err();
        assert!(error.to_string().contains("lock format 1 (expected 3)"), "{error}");
        assert!(error.remedy().unwrap().contains("--update-lock"));
    }

    #[test]
    fn lock_is_read_back_and_an_invalid_one_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("initrd.lock");
        assert_eq!(Lock::read(&path).unwrap(), None);
        let mut lock = Lock::new("p", "text", "r".into(), "d".into());
        lock.add(Set::Kernel, vec![artifact("a", 'a')]);
        lock.stage(&path).unwrap().commit().unwrap();
        assert_eq!(Lock::read(&path).unwrap().as_ref(), Some(&lock));
        assert!(lock.check_profile("p", "changed", &path).is_err());
        std::fs::write(&path, lock.to_toml().replace("aaaa", "../..")).unwrap();
        assert!(Lock::read(&path).is_err());
    }

    #[test]
    fn upstream_version_must_equal_the_drivers() {
        for (version, expected) in [("550.163.01-2", "550.163.01"), ("1:550.163.01-4~bpo13+1", "550.163.01")]
        {
            assert_eq!(upstream(version), expected);
        }
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("initrd.lock");
        let mut lock = Lock::new("p", "text", "r".into(), "550.163.1".into());
        let source = Artifact { version: "550.163.01-2".into(), ..artifact("source", 'a') };
        lock.add(Set::ModuleSource, vec![source]);
        lock.stage(&path).unwrap().commit().unwrap();
        let error = Lock::read(&path).unwrap_err().to_string();
        assert!(error.contains("550.163.1,") && error.contains("550.163.01"), "{error}");
    }

    #[test]
    fn changes_show_both_values_and_count_unchanged() {
        let mut old = Lock::new("p", "text", "r".into(), "1".into());
        old.add(Set::Kernel, vec![artifact("a", 'a'), artifact("b", 'b'), artifact("c", 'c')]);
        let mut new = Lock::new("p", "text", "r".into(), "2".into());
        let other = Artifact { version: "2".into(), ..artifact("b", 'd') };
        new.add(Set::Kernel, vec![artifact("a", 'a'), other, artifact("e", 'e')]);
        let changes = Changes::between(Some(&old), &new);
        let text = changes.to_string();
        for line in ["- driver 1", "+ driver 2", "~ b:amd64 1 -> 2", "- c:amd64 1", "+ e:amd64 1"] {
            assert!(text.contains(line), "{line:?} is not in {text}");
        }
        assert!(text.ends_with("1 added, 1 removed, 1 changed, 1 unchanged\n"), "{text}");
        assert!(Changes::between(Some(&new), &new).is_empty());
        assert_eq!(Changes::between(None, &new).added.len(), 3);
    }
}
