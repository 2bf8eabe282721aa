//! Files by which the loaders of Vulkan, EGL and OpenCL find drivers: a file for each driver, which names its library.
//!
//! The loaders read all files of several directories. One that an image has for the very library that it is given would have them open
//! that library twice: each GPU shows twice. Where loaders look is read from their sources: Vulkan-Loader, libglvnd, egl-wayland's
//! and NVIDIA's EGL, OpenCL-ICD-Loader and ocl-icd.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::path::{Component, Path, PathBuf};

use super::bundled::Foreign;
use crate::confined_fs::{Kind, RootDir};

/// Directories of such files, below each of [`BASES`].
const KINDS: [&str; 5] = [
    "vulkan/icd.d",
    "vulkan/implicit_layer.d",
    "glvnd/egl_vendor.d",
    "egl/egl_external_platform.d",
    "OpenCL/vendors",
];
const BASES: [&str; 5] = ["/etc", "/etc/xdg", "/usr/local/etc", "/usr/local/share", "/usr/share"];
/// Variables by which a program is told files, or directories of files, instead of these.
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
/// Bytes of such a file; real ones have 200 to 2000.
const MAX_FILE: u64 = 64 << 10;
/// Paths of an environment that are looked at: it is the image's.
const MAX_NAMED: usize = 64;
/// Files of one directory that are read.
const MAX_FILES: usize = 256;

/// What the environment names: the value of each of the variables, split.
pub fn named_by(variable: &dyn Fn(&str) -> Option<String>) -> Vec<PathBuf> {
    let values: Vec<String> = VARIABLES.iter().filter_map(|name| variable(name)).collect();
    let paths = values.iter().flat_map(|value| value.split(':')).map(Path::new);
    // A path that climbs may be another one before it is there than after.
    let is_plain = |path: &&Path| {
        let mut parts = path.components();
        parts.next() == Some(Component::RootDir) && parts.all(|part| matches!(part, Component::Normal(_)))
    };
    paths.filter(is_plain).take(MAX_NAMED).map(Path::to_owned).collect()
}

/// The kind of directory that a file is in.
pub fn kind_of(path: &Path) -> Option<&'static str> {
    let parent = path.parent()?;
    KINDS.into_iter().find(|kind| parent.ends_with(kind))
}

/// The libraries that such a file names, as it writes them. Of anything that cannot be read, none.
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

/// What the driver's own files of this sort name: kind of directory and library, without its version.
#[derive(Debug, Default)]
pub struct Ours(BTreeSet<(&'static str, String)>);

impl Ours {
    /// Of files that a container gets: where it has each, and where it can be read.
    pub fn of<'a>(files: impl Iterator<Item = (&'a Path, &'a RootDir, &'a Path)>) -> Self {
        let kinds = files.filter_map(|(to, root, from)| Some((kind_of(to)?, root, from)));
        Self(kinds.flat_map(|(kind, root, from)| stems(root, from).map(move |stem| (kind, stem))).collect())
    }

    /// Files of the image for libraries that the driver's own files are for. What the environment names is left: then nothing else
    /// is read.
    pub fn doubled(&self, root: &RootDir, ours: &BTreeSet<PathBuf>, named: &[PathBuf]) -> Vec<Foreign> {
        let named: Vec<PathBuf> = named.iter().map(|path| root.canonical_as_far(path)).collect();
        let is_named = |path: &Path| named.iter().any(|named| path.starts_with(named));
        let mut found = BTreeSet::new();
        for kind in KINDS.into_iter().filter(|kind| self.0.iter().any(|(ours, _)| ours == kind)) {
            for base in BASES {
                let Ok(dir) = root.canonical(&Path::new(base).join(kind)) else { continue };
                let entries = root.list(&dir).unwrap_or_default();
                let files = entries.into_iter().filter(|entry| matches!(entry.kind, Kind::File | Kind::Link));
                let paths = files.map(|entry| dir.join(entry.name)).filter(|path| is_read(kind, path));
                let paths = paths.filter(|path| !ours.contains(path) && !is_named(path)).take(MAX_FILES);
                found.extend(
                    paths.filter(|path| stems(root, path).any(|stem| self.0.contains(&(kind, stem)))),
                );
            }
        }
        found.into_iter().map(|path| Foreign { path, version: None }).collect()
    }
}

/// Whether the loader reads a file of this name there.
fn is_read(kind: &str, path: &Path) -> bool {
    let extension = if kind.starts_with("OpenCL") { "icd" } else { "json" };
    path.extension() == Some(OsStr::new(extension))
}

/// The libraries that a file names, without path and version: `libGLX_nvidia`.
fn stems(root: &RootDir, path: &Path) -> impl Iterator<Item = String> {
    libraries(root, path).into_iter().filter_map(|name| {
        let name = name.rsplit('/').next()?.split(".so").next()?.to_owned();
        (!name.is_empty()).then_some(name)
    })
}
