//! Checks what selected files need, so that nothing is packed that a loader cannot load.

use super::find::FoundFile;
use crate::common::error::{Doing, Error, Result};
use crate::common::files::base_name;
use image::capability::Capability::{self, Compute, Display, Graphics, Utility, Video};
use serde::Serialize;
use std::collections::BTreeMap;

/// Libraries that every container with glibc has.
const GLIBC: &[&str] = &[
    "libc.so.6",
    "libm.so.6",
    "libdl.so.2",
    "libpthread.so.0",
    "librt.so.1",
    "libutil.so.1",
    "libgcc_s.so.1",
    "ld-linux-x86-64.so.2",
    "ld-linux-aarch64.so.1",
    "ld-linux.so.2",
];

/// Libraries that containers bring if they use a capability. They are for displays, and not part of
/// the driver.
const BROUGHT: &[(&str, &[Capability])] = &[
    ("libX11.so.6", &[Display, Graphics, Video]),
    ("libXext.so.6", &[Display, Graphics, Video]),
    ("libxcb.so.1", &[Display, Graphics]),
    ("libX11-xcb.so.1", &[Display, Graphics]),
    ("libxcb-dri3.so.0", &[Display, Graphics]),
    ("libxcb-present.so.0", &[Display, Graphics]),
    ("libdrm.so.2", &[Display, Graphics]),
    ("libgbm.so.1", &[Display, Graphics]),
    ("libwayland-client.so.0", &[Display, Graphics]),
    ("libwayland-server.so.0", &[Display, Graphics]),
    // Confidential computing only.
    ("libcrypto.so.1.1", &[Compute]),
    ("libcrypto.so.3", &[Compute]),
    // For nvidia-persistenced, which a guest does not need: guest-init keeps the GPUs open.
    ("libtirpc.so.3", &[Utility]),
];

/// Most bytes of a JSON or ICD file. Real ones have a few hundred.
const MAX_DATA: u64 = 64 << 10;

/// A library that the container must bring, so that some files can be loaded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Need {
    /// Its SONAME.
    pub library: String,
    /// The capabilities of these files, sorted.
    pub capabilities: Vec<Capability>,
    /// Paths of these files in the initramfs.
    pub files: Vec<String>,
}

/// Checks that each `NEEDED` entry is a selected library of the same width, part of glibc, or
/// brought by containers. Returns the last kind.
pub fn check(found: &[FoundFile]) -> Result<Vec<Need>> {
    let mut needs = BTreeMap::new();
    for file in found {
        for name in file.elf.iter().flat_map(|elf| &elf.needed) {
            let name = String::from_utf8_lossy(name);
            let selected = || found.iter().any(|other| other.width == file.width && other.answers_to(&name));
            if GLIBC.contains(&&*name) || selected() {
                continue;
            }
            if !is_brought(&name, &file.file.capabilities) {
                return Err(Error::new(format!(
                    "{} needs {name}, which is neither selected nor part of glibc",
                    file.file.path
                ))
                .hint(
                    "select the capability that has it, or report that it is missing in the table of capabilities",
                ));
            }
            let need = needs.entry(name.to_string()).or_insert_with(|| Need {
                library: name.to_string(),
                capabilities: Vec::new(),
                files: Vec::new(),
            });
            need.files.push(file.file.path.clone());
            need.capabilities.extend(&file.file.capabilities);
        }
    }
    let mut needs: Vec<_> = needs.into_values().collect();
    for need in &mut needs {
        need.capabilities.sort_unstable();
        need.capabilities.dedup();
    }
    Ok(needs)
}

fn is_brought(name: &str, capabilities: &[Capability]) -> bool {
    let list = BROUGHT.iter().find(|(library, _)| *library == name);
    list.is_some_and(|(_, list)| capabilities.iter().any(|capability| list.contains(capability)))
}

/// Checks that files by which a container's loader (OpenCL, EGL, Vulkan) finds a library name a
/// selected one. Packages for RPM contain its path on their own system; the guest creates a link
/// there.
pub fn check_data(found: &[FoundFile]) -> Result<()> {
    for file in found {
        let path = &file.file.path;
        let names = match path.rsplit('.').next() {
            Some("icd") => text(file)?.lines().map(|line| line.trim().to_owned()).collect(),
            Some("json") => {
                let value: serde_json::Value = serde_json::from_str(&text(file)?)
                    .map_err(|error| unusable(file, "is not JSON").source(error))?;
                let mut names = Vec::new();
                library_paths(&value, &mut names);
                names
            }
            _ => continue,
        };
        if names.is_empty() {
            return Err(unusable(file, "names no library"));
        }
        let resolves =
            |name: &String| found.iter().any(|other| other.elf.is_some() && other.answers_to(name));
        let is_known = |name: &&String| match name.strip_prefix('/') {
            Some(path) => resolves(&base_name(path).to_owned()),
            None => resolves(name),
        };
        if let Some(name) = names.iter().find(|name| !is_known(name)) {
            return Err(unusable(
                file,
                &format!(
                    "names {name:?}, expected a library that is selected, by its SONAME or by an absolute path"
                ),
            ));
        }
    }
    Ok(())
}

fn text(file: &FoundFile) -> Result<String> {
    if file.file.file.size > MAX_DATA {
        return Err(unusable(
            file,
            &format!("has {} bytes, expected at most {MAX_DATA}", file.file.file.size),
        ));
    }
    std::fs::read_to_string(&file.file.source).doing("reading", &file.file.source)
}

fn unusable(file: &FoundFile, what: &str) -> Error {
    let name = base_name(&file.file.path);
    Error::new(format!("{name} of {} {what}", file.file.origin)).hint(
        "its package has another layout than the profile expects: leave the package or the capability out",
    )
}

fn library_paths(value: &serde_json::Value, names: &mut Vec<String>) {
    // Vulkan's layers are in a list.
    if let serde_json::Value::Array(values) = value {
        for value in values {
            library_paths(value, names);
        }
    }
    let serde_json::Value::Object(fields) = value else { return };
    for (key, value) in fields {
        match value.as_str() {
            Some(name) if key == "library_path" => names.push(name.to_owned()),
            _ => library_paths(value, names),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_found_in_icd_files_and_lists_of_layers() {
        let text = r#"{"ICD": {"library_path": "a.so.0"}, "layers": [{"library_path": "b.so.1"}, {"library_path": "c.so.2", "n": 1}]}"#;
        let mut names = Vec::new();
        library_paths(&serde_json::from_str(text).unwrap(), &mut names);
        names.sort();
        assert_eq!(names, ["a.so.0", "b.so.1", "c.so.2"]);
    }
}
