//! NVIDIA's index of redistributables: `redistrib_<version>.json`, with a relative path, a SHA-256
//! and a size for each component and platform.

use super::http::{Http, RemoteFile};
use super::source::{Access, Offer, Source, WantedArtifact};
use crate::common::error::{Error, Result};
use crate::pins::lock::{Artifact, SourceKind, is_digest};
use serde_json::Value;

/// Components of an index.
pub struct Redist<'a> {
    http: Http<'a>,
}

impl<'a> Redist<'a> {
    /// With the default timeouts.
    pub fn new(access: Access<'a>) -> Result<Self> {
        Ok(Self { http: Http::new(access)? })
    }
}

impl Source for Redist<'_> {
    type Query<'w> = Vec<WantedArtifact<'w>>;

    fn resolve(&self, wanted: Vec<WantedArtifact>) -> Result<Vec<Artifact>> {
        let mut files = Vec::new();
        for wanted in wanted {
            let url = wanted.url()?;
            let component = wanted.artifact.component.as_deref().unwrap_or_default();
            let component = wanted.artifact.expand(component, wanted.values)?;
            let found = find(&self.http.text(&url)?, &url, &component, wanted.values.arch)?;
            files.push(RemoteFile {
                wanted,
                url: found.url,
                size: Some(found.size),
                sha256: Some(found.sha256),
                kind: SourceKind::Redist,
                version: found.version,
            });
        }
        self.http.pin_all(&files)
    }

    fn fetch(&self, artifacts: &[&Artifact]) -> Result<()> {
        self.http.fetch(artifacts)
    }

    fn offers(&self, artifacts: &[&Artifact]) -> Result<Vec<Offer>> {
        self.http.offers(artifacts)
    }
}

/// One file of an index.
#[derive(Debug, PartialEq, Eq)]
struct Found {
    version: String,
    url: String,
    sha256: String,
    size: u64,
}

fn find(text: &str, url: &str, component: &str, arch: &str) -> Result<Found> {
    let malformed = |what: String| {
        Error::new(format!("{url}: {what}"))
            .hint("expected an index in the form of NVIDIA's redistrib_VERSION.json; check the address in the profile")
    };
    let index: Value =
        serde_json::from_str(text).map_err(|error| malformed("is not JSON".into()).source(error))?;
    let entries = index.as_object().ok_or_else(|| malformed("is not an object".into()))?;
    let Some(entry) = entries.get(component) else {
        let names: Vec<_> =
            entries.iter().filter(|(_, value)| value.is_object()).map(|(name, _)| name.as_str()).collect();
        return Err(malformed(format!("has no component {component:?}, it has {}", names.join(", "))));
    };
    let platform = if arch == "aarch64" { "linux-sbsa".to_owned() } else { format!("linux-{arch}") };
    let file =
        entry.get(&platform).ok_or_else(|| malformed(format!("{component} has nothing for {platform}")))?;
    let text = |name: &str| file.get(name).and_then(Value::as_str).unwrap_or_default();
    let (path, sha256) = (text("relative_path"), text("sha256"));
    // The size is a number in quotation marks.
    let size = file.get("size").and_then(|size| size.as_u64().or_else(|| size.as_str()?.parse().ok()));
    let plain = !path.is_empty()
        && path.split('/').all(|part| !part.is_empty() && part != ".." && !part.contains(':'));
    let (true, true, Some(size)) = (plain, is_digest(sha256), size) else {
        return Err(malformed(format!(
            "{component} for {platform} has no usable relative_path, sha256 and size; a component with variants must be named by its archive's own url"
        )));
    };
    let base = url.rsplit_once('/').map_or("", |(base, _)| base);
    Ok(Found {
        version: entry.get("version").and_then(Value::as_str).unwrap_or("0").to_owned(),
        url: format!("{base}/{path}"),
        sha256: sha256.to_owned(),
        size,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const URL: &str = "https://x.test/redist/redistrib_570.86.16.json";

    fn index(path: &str) -> String {
        format!(
            r#"{{"release_date": "2025-01-30", "nvidia_driver": {{"name": "NVIDIA Linux Driver", "version": "570.86.16",
            "linux-x86_64": {{"relative_path": "{path}", "sha256": "{}", "md5": "x", "size": "1234"}},
            "windows-x86_64": {{}}}}}}"#,
            "a".repeat(64)
        )
    }

    #[test]
    fn component_has_address_digest_size_and_version() {
        let text = index("nvidia_driver/linux-x86_64/d.tar.xz");
        let found = find(&text, URL, "nvidia_driver", "x86_64").unwrap();
        assert_eq!(found.url, "https://x.test/redist/nvidia_driver/linux-x86_64/d.tar.xz");
        assert_eq!((found.version.as_str(), found.size), ("570.86.16", 1234));
    }

    #[test]
    fn missing_component_or_platform_is_named() {
        let text = index("d.tar.xz");
        let error = |text: &str, component: &str, arch: &str| {
            find(text, URL, component, arch).unwrap_err().to_string()
        };
        assert!(error(&text, "cuda", "x86_64").contains("it has nvidia_driver"));
        assert!(error(&text, "nvidia_driver", "aarch64").contains("nothing for linux-sbsa"));
        assert!(
            error("[]", "x", "x86_64").contains("is not an object")
                && error("<", "x", "x86_64").contains("not JSON")
        );
    }

    #[test]
    fn path_that_leaves_the_index_is_refused() {
        for path in ["../d.tar.xz", "a//b", "/etc/x", "https://evil.test/x", ""] {
            assert!(find(&index(path), URL, "nvidia_driver", "x86_64").is_err(), "{path}");
        }
    }
}
