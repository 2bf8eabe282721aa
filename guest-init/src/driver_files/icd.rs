//! ICD files, with which the loaders of Vulkan, EGL and OpenCL find drivers: one file per driver, which names its library.
//!
//! The loaders read all files of several directories. If the image has a file for the same library, they open the library
//! twice and show every GPU twice. The search paths are taken from the sources of Vulkan-Loader, libglvnd, egl-wayland's and
//! NVIDIA's EGL, OpenCL-ICD-Loader and ocl-icd.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::path::{Component, Path, PathBuf};

use crate::confined_fs::{EntryType, RootDir};

/// Directories of such files, below each of [`BASES`].
const KINDS: [&str; 5] = [
    "vulkan/icd.d",
    "vulkan/implicit_layer.d",
    "glvnd/egl_vendor.d",
    "egl/egl_external_platform.d",
    "OpenCL/vendors",
];
const BASES: [&str; 5] = ["/etc", "/etc/xdg", "/usr/local/etc", "/usr/local/share", "/usr/share"];
/// Variables that replace these directories with other files or directories.
const VARIABLES: [&str; 9] = [
    "VK_DRIVER_FILES",
    "VK_ICD_FILENAMES",
    "__EGL_VENDOR_LIBRARY_FILENAMES",
    "__EGL_VENDOR_LIBRARY_DIRS",
    "__EGL_EXTERNAL_PLATFORM_CONFIG_FILENAMES",
    "__EGL_EXTERNAL_PLATFORM_CONFIG_DIRS",
    "OCL_ICD_FILENAMES",
    "OCL_ICD_VENDORS",
    "OPENCL_VENDOR_PATH",
];
/// Maximum size of an ICD file in bytes; real ones have 200 to 2000.
const MAX_FILE: u64 = 64 << 10;
/// Maximum number of paths from the environment, which the image controls.
const MAX_NAMED: usize = 64;
/// Maximum number of files read per directory.
const MAX_FILES: usize = 256;

/// Returns the paths in the variables of the environment.
pub fn named_by(variable: &dyn Fn(&str) -> Option<String>) -> Vec<PathBuf> {
    let values: Vec<String> = VARIABLES.iter().filter_map(|name| variable(name)).collect();
    let paths = values.iter().flat_map(|value| value.split(':')).map(Path::new);
    // A path with `..` may resolve differently before and after the injection.
    let is_plain = |path: &&Path| {
        let mut parts = path.components();
        parts.next() == Some(Component::RootDir) && parts.all(|part| matches!(part, Component::Normal(_)))
    };
    paths.filter(is_plain).take(MAX_NAMED).map(Path::to_owned).collect()
}

/// Returns the kind of directory that contains a file.
pub fn kind_of(path: &Path) -> Option<&'static str> {
    let parent = path.parent()?;
    KINDS.into_iter().find(|kind| parent.ends_with(kind))
}

/// Returns the libraries named in an ICD file, unchanged; none if it cannot be read.
pub fn libraries(root: &RootDir, path: &Path) -> Vec<String> {
    let Ok(bytes) = root.read(path, MAX_FILE) else { return Vec::new() };
    if path.extension() == Some(OsStr::new("icd")) {
        let line = bytes.split(|byte| *byte == b'\n').next().unwrap_or_default();
        let name = String::from_utf8_lossy(line).trim().to_owned();
        return Some(name).filter(|name| !name.is_empty()).into_iter().collect();
    }
    let mut names = Vec::new();
    if let Ok(value) = serde_json::from_slice(&bytes) {
        library_paths(&value, &mut names);
    }
    names
}

fn library_paths(value: &serde_json::Value, names: &mut Vec<String>) {
    match value {
        serde_json::Value::Array(values) => values.iter().for_each(|value| library_paths(value, names)),
        serde_json::Value::Object(fields) => {
            for (key, value) in fields {
                match value.as_str() {
                    Some(name) if key == "library_path" => names.push(name.to_owned()),
                    _ => library_paths(value, names),
                }
            }
        }
        _ => {}
    }
}

/// The libraries named in the driver's own ICD files: kind of directory, and library without version.
#[derive(Debug, Default)]
pub struct Ours(BTreeSet<(&'static str, String)>);

impl Ours {
    /// Collects them from the files for a container: the path there, and where the file can be read.
    pub fn of<'a>(files: impl Iterator<Item = (&'a Path, &'a RootDir, &'a Path)>) -> Self {
        let kinds = files.filter_map(|(to, root, from)| Some((kind_of(to)?, root, from)));
        Self(kinds.flat_map(|(kind, root, from)| stems(root, from).map(move |stem| (kind, stem))).collect())
    }

    /// Returns the image's ICD files for the same libraries. Files named in the environment are kept, because then the loaders
    /// read no others.
    pub fn doubled(&self, root: &RootDir, ours: &BTreeSet<PathBuf>, named: &[PathBuf]) -> BTreeSet<PathBuf> {
        let named: Vec<PathBuf> = named.iter().map(|path| root.canonical_as_far(path)).collect();
        let is_named = |path: &Path| named.iter().any(|named| path.starts_with(named));
        let mut found = BTreeSet::new();
        for kind in KINDS.into_iter().filter(|kind| self.0.iter().any(|(ours, _)| ours == kind)) {
            for base in BASES {
                let Ok(dir) = root.canonical(&Path::new(base).join(kind)) else { continue };
                let entries = root.list(&dir).unwrap_or_default();
                let files = entries
                    .into_iter()
                    .filter(|entry| matches!(entry.kind, EntryType::File | EntryType::Link));
                let paths = files.map(|entry| dir.join(entry.name)).filter(|path| is_read(kind, path));
                let paths = paths.filter(|path| !ours.contains(path) && !is_named(path)).take(MAX_FILES);
                found.extend(
                    paths.filter(|path| stems(root, path).any(|stem| self.0.contains(&(kind, stem)))),
                );
            }
        }
        found
    }
}

/// Returns whether the loader reads a file with this name in such a directory.
fn is_read(kind: &str, path: &Path) -> bool {
    let extension = if kind.starts_with("OpenCL") { "icd" } else { "json" };
    path.extension() == Some(OsStr::new(extension))
}

/// Returns the libraries named in a file, without path and version: `libGLX_nvidia`.
fn stems(root: &RootDir, path: &Path) -> impl Iterator<Item = String> {
    libraries(root, path).into_iter().filter_map(|name| {
        let name = name.rsplit('/').next()?.split(".so").next()?.to_owned();
        (!name.is_empty()).then_some(name)
    })
}
