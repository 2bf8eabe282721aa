//! Locks: what a profile resolved to. Name, version, size and SHA-256 of each artifact; TOML, stable in order, made
//! to be reviewed and committed. No addresses: those come from the machine that fetches.

use crate::cache::{Staged, sha256};
use crate::error::{Doing, Error, Result};
use serde::{Deserialize, Serialize};
use std::io::Write;
use std::path::Path;

/// Version of the lock format.
const FORMAT: u32 = 1;

/// What an artifact is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Set {
    /// Kernel image and its modules.
    Kernel,
    /// Driver libraries and programs.
    Userspace,
    /// GSP firmware.
    Firmware,
    /// Source of the GPU's modules.
    ModuleSource,
    /// Compiler and kernel headers.
    Toolroot,
    /// QEMU and tools that make disks.
    Vm,
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
        let key = |artifact: &Artifact| (artifact.name.clone(), artifact.version.clone());
        self.artifact.sort_by_key(key);
    }

    /// Artifacts of one set, sorted by name.
    pub fn set(&self, set: Set) -> Vec<&Artifact> {
        self.artifact.iter().filter(|artifact| artifact.sets.contains(&set)).collect()
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
        for artifact in
            self.artifact.iter().filter(|artifact| sets.iter().any(|set| artifact.sets.contains(set)))
        {
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
        let lock: Self = toml::from_str(&text).map_err(|error| {
            Error::new(format!("{} is not a lock", path.display())).source(error).hint(remedy)
        })?;
        if lock.format != FORMAT {
            let message = format!("{} has lock format {}, expected {FORMAT}", path.display(), lock.format);
            return Err(Error::new(message).hint(remedy));
        }
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
