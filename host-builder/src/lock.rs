//! Locks: what a profile resolved to. Name, version, size and SHA-256 of each artifact; TOML, stable in order, made
//! to be reviewed and committed. No addresses: those come from the machine that fetches.

use crate::cache::{Staged, sha256};
use crate::error::{Doing, Error, Result};
use image::capability::Capability;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fmt;
use std::io::Write;
use std::path::Path;

/// Version of the lock format.
const FORMAT: u32 = 2;

/// What an artifact is for. In a lock it is one word, such as `kernel` or `userspace-compute`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum Set {
    /// Kernel image and its modules.
    Kernel,
    /// Driver libraries and programs of a capability.
    Userspace(Capability),
    /// 32-bit driver libraries of a capability.
    Compat32(Capability),
    /// GSP firmware.
    Firmware,
    /// Source of the GPU's modules.
    ModuleSource,
    /// Compiler and kernel headers.
    Toolroot,
    /// QEMU and tools that make disks.
    Vm,
}

const USERSPACE: &str = "userspace-";
const COMPAT32: &str = "compat32-";

impl Set {
    /// The driver's 64-bit libraries and programs for these capabilities.
    pub fn userspace(capabilities: &BTreeSet<Capability>) -> Vec<Self> {
        with_graphics(capabilities).into_iter().map(Self::Userspace).collect()
    }

    /// Its 32-bit libraries for these capabilities; none unless [`Capability::Compat32`] is one of them.
    pub fn compat32(capabilities: &BTreeSet<Capability>) -> Vec<Self> {
        if !capabilities.contains(&Capability::Compat32) {
            return Vec::new();
        }
        with_graphics(capabilities).into_iter().map(Self::Compat32).collect()
    }

    /// Everything that an image with these capabilities is made from; the modules' sources and compiler apart, since
    /// modules may be in the cache.
    pub fn image(capabilities: &BTreeSet<Capability>) -> Vec<Self> {
        let driver = [Self::userspace(capabilities), Self::compat32(capabilities)].concat();
        [vec![Self::Kernel, Self::Firmware], driver].concat()
    }
}

/// Display has all that graphics has.
fn with_graphics(capabilities: &BTreeSet<Capability>) -> BTreeSet<Capability> {
    let mut all = capabilities.clone();
    if all.contains(&Capability::Display) {
        all.insert(Capability::Graphics);
    }
    all
}

impl fmt::Display for Set {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kernel => out.write_str("kernel"),
            Self::Userspace(capability) => write!(out, "{USERSPACE}{capability}"),
            Self::Compat32(capability) => write!(out, "{COMPAT32}{capability}"),
            Self::Firmware => out.write_str("firmware"),
            Self::ModuleSource => out.write_str("module-source"),
            Self::Toolroot => out.write_str("toolroot"),
            Self::Vm => out.write_str("vm"),
        }
    }
}

impl From<Set> for String {
    fn from(set: Set) -> Self {
        set.to_string()
    }
}

impl TryFrom<String> for Set {
    type Error = String;

    fn try_from(text: String) -> std::result::Result<Self, String> {
        let capability = |word: &str| word.parse().ok();
        let plain = [Self::Kernel, Self::Firmware, Self::ModuleSource, Self::Toolroot, Self::Vm];
        let driver = || match text.strip_prefix(USERSPACE) {
            Some(word) => capability(word).map(Self::Userspace),
            None => capability(text.strip_prefix(COMPAT32)?).map(Self::Compat32),
        };
        let known = plain.into_iter().find(|set| set.to_string() == text);
        known.or_else(driver).ok_or_else(|| format!("unknown set {text:?}"))
    }
}

/// One pinned package.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Artifact {
    /// Package name.
    pub name: String,
    /// Version.
    pub version: String,
    /// Package architecture.
    pub arch: String,
    /// Suite it was resolved in.
    pub suite: String,
    /// Size in bytes.
    pub size: u64,
    /// SHA-256, lower-case hex.
    pub sha256: String,
    /// What it is for.
    pub sets: Vec<Set>,
}

/// What a profile resolved to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lock {
    /// [`FORMAT`].
    pub format: u32,
    /// Name of the profile.
    pub profile: String,
    /// SHA-256 of the profile's text: a changed profile asks for a new lock.
    pub profile_sha256: String,
    /// Release of the kernel.
    pub kernel_release: String,
    /// Version of the driver.
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
            kernel_release,
            driver,
            artifact: Vec::new(),
        }
    }

    /// Adds artifacts of one set; one that is there already gets the set added.
    pub fn add(&mut self, set: Set, artifacts: Vec<Artifact>) {
        for mut new in artifacts {
            match self.artifact.iter_mut().find(|old| old.sha256 == new.sha256) {
                Some(old) if old.sets.contains(&set) => {}
                Some(old) => old.sets.push(set),
                None => {
                    new.sets = vec![set];
                    self.artifact.push(new);
                }
            }
        }
        let key =
            |artifact: &Artifact| (artifact.name.clone(), artifact.version.clone(), artifact.arch.clone());
        self.artifact.sort_by_key(key);
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
            Error::new(format!("the lock has no package {name}, which the profile {} needs", self.profile))
                .hint("resolve again: build-initrd --update-lock")
        })
    }

    /// Digest of everything in some sets: the key of what is derived from them.
    pub fn digest(&self, sets: &[Set]) -> String {
        let mut text = String::new();
        for artifact in self.sets(sets) {
            text.push_str(&artifact.sha256);
            text.push('\n');
        }
        sha256(text.as_bytes())
    }

    /// Reads a lock, if there is one.
    pub fn read(path: &Path) -> Result<Option<Self>> {
        let text = match std::fs::read_to_string(path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            result => result.doing("reading the lock", path)?,
        };
        let remedy = "restore it, or resolve again: build-initrd --update-lock";
        let malformed = |error: toml::de::Error| {
            Error::new(format!("{} is not a lock", path.display())).source(error).hint(remedy)
        };
        // A lock of another format may hold anything else: that it is one is the message.
        let head: Head = toml::from_str(&text).map_err(malformed)?;
        if head.format != FORMAT {
            let message = format!("{} has lock format {}, expected {FORMAT}", path.display(), head.format);
            return Err(Error::new(message).hint(remedy));
        }
        let lock: Self = toml::from_str(&text).map_err(malformed)?;
        let bad =
            lock.artifact.iter().find(|artifact| !is_digest(&artifact.sha256) || !is_plain(&artifact.name));
        if let Some(bad) = bad {
            let message =
                format!("{}: artifact {:?} has no usable name and sha256", path.display(), bad.name);
            return Err(Error::new(message).hint(remedy));
        }
        Ok(Some(lock))
    }

    /// Fails when the lock was made from another profile, or another state of this one.
    pub fn check_profile(&self, name: &str, text: &str, path: &Path) -> Result<()> {
        let found = sha256(text.as_bytes());
        if self.profile == name && self.profile_sha256 == found {
            return Ok(());
        }
        Err(Error::new(format!(
            "{} was resolved from profile {} with digest {:.12}, the profile to build is {name} with digest {found:.12}",
            path.display(),
            self.profile,
            self.profile_sha256,
        ))
        .hint("resolve again: build-initrd --update-lock, or give the lock that belongs to the profile: --lock FILE"))
    }

    /// The lock as text.
    pub fn to_toml(&self) -> String {
        let body = toml::to_string(self).expect("a lock holds nothing that TOML cannot");
        format!(
            "# Made by host-builder. Every artifact of the image and of its build, pinned. Commit it.\n{body}"
        )
    }

    /// The file that will be at `path`.
    pub fn stage(&self, path: &Path) -> Result<Staged> {
        Staged::new(path, 0o644, |file| file.write_all(self.to_toml().as_bytes()).doing("writing", path))
    }
}

fn is_digest(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

fn is_plain(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-._".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn artifact(name: &str, digit: char) -> Artifact {
        Artifact {
            name: name.into(),
            version: "1".into(),
            arch: "amd64".into(),
            suite: "s".into(),
            size: 1,
            sha256: digit.to_string().repeat(64),
            sets: vec![],
        }
    }

    #[test]
    fn order_of_adding_does_not_show() {
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
    fn sets_are_words_and_display_has_the_packages_of_graphics() {
        use Capability::{Compat32, Display, Graphics, Video};
        for set in [Set::Kernel, Set::ModuleSource, Set::Userspace(Graphics), Set::Compat32(Video)] {
            assert_eq!(Set::try_from(set.to_string()), Ok(set));
        }
        assert!(Set::try_from("userspace".to_owned()).is_err());
        let display = BTreeSet::from([Display]);
        assert_eq!(Set::userspace(&display), [Display, Graphics].map(Set::Userspace));
        assert_eq!(Set::compat32(&display), []);
        let both = BTreeSet::from([Compat32, Video]);
        assert!(Set::image(&both).contains(&Set::Compat32(Video)));
    }

    #[test]
    fn a_lock_of_an_older_format_is_refused_by_its_format() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("initrd.lock");
        let mut lock = Lock::new("p", "text", "r".into(), "d".into());
        lock.add(Set::Userspace(Capability::Compute), vec![artifact("a", 'a')]);
        let old =
            lock.to_toml().replace("format = 2", "format = 1").replace("userspace-compute", "userspace");
        std::fs::write(&path, old).unwrap();
        let error = Lock::read(&path).unwrap_err();
        assert!(error.to_string().contains("lock format 1, expected 2"), "{error}");
        assert!(error.remedy().unwrap().contains("--update-lock"));
    }

    #[test]
    fn a_lock_is_read_back_and_a_bad_one_refused() {
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
}
