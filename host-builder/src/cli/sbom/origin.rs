//! The origins of a manifest as packages.

use image::manifest::Manifest;

/// Where files came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// Package, or what was built from it.
    pub name: String,
    /// Its version; the driver's for what was built.
    pub version: String,
    /// Package URL; `None` if no package archive has it.
    pub purl: Option<String>,
    /// What it is.
    pub kind: OriginKind,
}

/// What an origin is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OriginKind {
    /// A package, or another artifact of the lock.
    Package,
    /// Kernel modules, built from a package.
    Built,
    /// This tool.
    Tool,
}

impl Origin {
    /// `NAME VERSION`, `NAME VERSION sha256:DIGEST`, `NAME:ARCH VERSION`, `built from NAME`, or the
    /// tool's own name and version.
    pub fn of(text: &str, manifest: &Manifest) -> Self {
        if let Some(source) = text.strip_prefix("built from ") {
            let version = manifest.driver.as_ref().map_or_else(String::new, |driver| driver.version.clone());
            return Self { name: format!("{source} (built)"), version, purl: None, kind: OriginKind::Built };
        }
        let (name, version) = text.split_once(' ').unwrap_or((text, ""));
        let version = version.to_owned();
        if text == manifest.builder {
            return Self { name: name.to_owned(), version, purl: None, kind: OriginKind::Tool };
        }
        // An origin with a digest is not a package of an archive.
        if version.contains(" sha256:") {
            return Self { name: name.to_owned(), version, purl: None, kind: OriginKind::Package };
        }
        let native = match manifest.arch.as_str() {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        let (name, arch) = name.split_once(':').unwrap_or((name, native));
        let purl = format!("pkg:deb/debian/{}@{}?arch={}", encoded(name), encoded(&version), encoded(arch));
        Self { name: name.to_owned(), version, purl: Some(purl), kind: OriginKind::Package }
    }
}

/// Percent-encodes text for a package URL.
fn encoded(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b".-_~:".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}
