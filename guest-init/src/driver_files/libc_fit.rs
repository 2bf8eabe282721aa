//! Which driver files the image's C library can load.

use super::inventory::DriverFile;
use super::request::ContainerRequest;

/// Driver files that the image's C library cannot load, with the version that each requires.
pub(super) struct TooNew<'a>(pub(super) Vec<(&'a DriverFile, (u32, u32))>);

impl<'a> TooNew<'a> {
    pub(super) fn among(files: &[&'a DriverFile], glibc: (u32, u32)) -> Self {
        let needed = |file: &DriverFile| file.glibc.filter(|needed| *needed > glibc);
        Self(files.iter().filter_map(|file| Some((*file, needed(file)?))).collect())
    }

    /// Returns whether a file is left out: the container cannot load it and did not request it by name.
    pub(super) fn is_left_out(&self, file: &DriverFile, request: &ContainerRequest) -> bool {
        !is_named(file, request) && self.0.iter().any(|(found, _)| found.from == file.from)
    }
}

/// Returns whether the container requests a file by the name of its capability.
pub(super) fn is_named(file: &DriverFile, request: &ContainerRequest) -> bool {
    file.capabilities.iter().any(|capability| request.named.contains(capability))
}
