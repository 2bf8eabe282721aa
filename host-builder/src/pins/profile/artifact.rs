//! An artifact of a profile: a name, an address with placeholders, and what it is for.

use crate::common::error::{Error, Result};
use crate::pins::lock::{Set, SourceKind, is_digest, is_plain};
use serde::Deserialize;

/// An artifact from another source than a package archive. Its file type is detected from its
/// content: a tar archive in any compression, a zip archive, a Debian or RPM package, an installer
/// of NVIDIA, or a plain file.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Artifact {
    /// Its name, in the lock and in manifests.
    pub name: String,
    /// What it is for: `kernel`, `gpu-modules`, `driver`, `firmware`, and the other words of locks.
    pub sets: Vec<Set>,
    /// Where it is: `https://…`, `http://…`, `host:/`, or a path relative to the profile.
    /// `{driver}`, `{kernel}`, `{arch}` and `{name}` are replaced.
    pub url: String,
    /// The kind of source, if the address does not determine it: `redist`.
    pub source: Option<SourceKind>,
    /// The component of an index of redistributables.
    pub component: Option<String>,
    /// Its SHA-256, if the publisher states it only in prose.
    pub sha256: Option<String>,
    /// Address of a list of SHA-256 digests, as sha256sum writes it.
    pub checksums: Option<String>,
    /// Paths to unpack, as the archive spells them; empty: all.
    #[serde(default)]
    pub only: Vec<String>,
    /// Most bytes that it may unpack to when it is first resolved. After that, the lock has the
    /// limit.
    pub max_unpacked: Option<u64>,
}

/// Values of the placeholders.
#[derive(Debug, Clone, Copy)]
pub struct Values<'a> {
    /// `{driver}`.
    pub driver: &'a str,
    /// `{kernel}`.
    pub kernel: Option<&'a str>,
    /// `{arch}`.
    pub arch: &'a str,
}

impl Artifact {
    /// Its source, from the address.
    pub fn kind(&self) -> SourceKind {
        self.source.unwrap_or_else(|| match &self.url {
            url if url.starts_with("https://") || url.starts_with("http://") => SourceKind::Http,
            url if url.starts_with("host:") => SourceKind::Host,
            _ => SourceKind::File,
        })
    }

    /// Returns a text with the placeholders replaced.
    pub fn expand(&self, text: &str, values: Values) -> Result<String> {
        let mut out = String::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('{') {
            let (word, behind) = after.split_once('}').unwrap_or((after, ""));
            out.push_str(before);
            out.push_str(match word {
                "driver" => values.driver,
                "arch" => values.arch,
                "name" => &self.name,
                "kernel" => values.kernel.ok_or_else(|| {
                    Error::new(format!(
                        "artifact {}: {text} uses {{kernel}}, but the profile has no kernel version",
                        self.name
                    ))
                    .hint("add [kernel] version to the profile")
                })?,
                other => {
                    return Err(Error::new(format!("artifact {}: {text} has {{{other}}}", self.name))
                        .hint("known: {driver}, {kernel}, {arch}, {name}"));
                }
            });
            rest = behind;
        }
        Ok(out + rest)
    }

    /// Checks that its fields are consistent.
    pub fn check(&self) -> Result<()> {
        let wrong =
            |what: &str, hint: &str| Err(Error::new(format!("artifact {:?}: {what}", self.name)).hint(hint));
        let unusable = |set: &Set| matches!(set, Set::Toolroot | Set::Payload | Set::Vm | Set::ModuleSource);
        let over_the_network = self.url.starts_with("https://") || self.url.starts_with("http://");
        if !is_plain(&self.name) {
            return wrong("is not a valid name", "use letters, digits and +-._");
        }
        if self.sets.is_empty() || self.sets.iter().any(unusable) {
            return wrong(
                "has no sets that artifacts can be for",
                "name kernel, gpu-modules, driver, firmware, userspace-… or compat32-…",
            );
        }
        if self.kind() == SourceKind::Apt {
            return wrong(
                "source is apt",
                "packages are named in [kernel], [userspace], [firmware] and [modules]",
            );
        }
        if (self.kind() == SourceKind::Redist) != self.component.is_some() {
            return wrong("source redist and component go together", "set both, or neither");
        }
        if matches!(self.kind(), SourceKind::Http | SourceKind::Redist) != over_the_network {
            return wrong(
                "its source and its url do not go together",
                "https:// and http:// are of sources http and redist",
            );
        }
        if [Some(&self.url), self.checksums.as_ref()].into_iter().flatten().any(|url| has_credentials(url)) {
            return wrong(
                "its address contains a user or a password, and the lock would publish it",
                "serve it without a password, or download it and pass its path",
            );
        }
        if self.sha256.as_deref().is_some_and(|digest| !is_digest(digest)) {
            return wrong("sha256 is not valid", "use 64 lower-case hexadecimal digits");
        }
        Ok(())
    }
}

/// Whether the authority of an address has user information before an `@` (RFC 3986, section
/// 3.2.1).
fn has_credentials(url: &str) -> bool {
    let Some((_, rest)) = url.split_once("://") else { return false };
    rest.split(['/', '?', '#']).next().is_some_and(|authority| authority.contains('@'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn address_with_a_password_is_detected() {
        for url in ["https://user:secret@host/x", "http://token@host", "https://a@b@c/x?y"] {
            assert!(has_credentials(url), "{url}");
        }
        for url in ["https://host/x@y", "https://host?u=a@b", "./a@b", "host:/"] {
            assert!(!has_credentials(url), "{url}");
        }
        let text = "name = \"a\"\nsets = [\"driver\"]\nurl = \"https://me:secret@host/a\"\n";
        let artifact: Artifact = toml::from_str(text).unwrap();
        let error = artifact.check().unwrap_err();
        assert!(
            error.to_string().contains("contains a user or a password") && !error.chain().contains("secret"),
            "{error}"
        );
    }
}
