//! Names of driver files: is this one, and of which driver version?

use std::ffi::OsStr;

use image::capability::{self, Kind as Table};

/// Returns whether `name` is a library name of a driver of any version: `libcuda.so`, `libcuda.so.1`,
/// `libcuda.so.535.54.03`. It is looked up in the table, which excludes libcudart and libnvidia-container, for example, and
/// projects with their own versions, such as egl-wayland.
pub fn is_driver_library(name: &OsStr) -> bool {
    let Some((stem, rest)) = name.to_str().and_then(|name| name.split_once(".so")) else { return false };
    let numbers =
        |text: &str| text.split('.').all(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()));
    let versioned = rest.is_empty() || rest.strip_prefix('.').is_some_and(numbers);
    let is_stem = |row: &capability::DriverFile| match row.kind {
        Table::Library(known) | Table::Sub(_, known) => known == stem,
        Table::Exact(known) => known.split_once(".so").is_some_and(|(known, _)| known == stem),
        _ => false,
    };
    versioned && capability::TABLE.iter().any(is_stem)
}

/// Returns whether `name` is a program of the driver.
pub fn is_driver_program(name: &OsStr) -> bool {
    let is_it = |row: &capability::DriverFile| matches!(row.kind, Table::Program(known) if name == known);
    capability::TABLE.iter().any(is_it)
}

/// Returns whether `name` is a file name in a driver of any version, for any file that containers receive.
pub fn is_driver_name(name: &OsStr) -> bool {
    let Some(text) = name.to_str() else { return false };
    let base = |path: &'static str| path.rsplit('/').next().unwrap_or(path);
    let fits = |pattern: &str| match pattern.split_once(capability::VERSION) {
        Some((before, after)) => text.starts_with(before) && text.ends_with(after),
        None => text == pattern,
    };
    let is_of = |row: &capability::DriverFile| match row.kind {
        Table::Program(known) | Table::Exact(known) | Table::Link { name: known, .. } => fits(known),
        Table::Data(path) => fits(base(path)),
        Table::Separate(stem) => text.strip_prefix(stem).is_some_and(|rest| rest.starts_with(".so")),
        Table::Library(_) | Table::Sub(..) => false,
    };
    is_driver_library(name) || capability::TABLE.iter().any(is_of)
}

/// Returns the driver version in a library's name, `None` if it has none.
pub fn version_of(name: &OsStr) -> Option<String> {
    capability::version_of(name.to_str()?).map(|(_, version)| version.to_owned())
}
