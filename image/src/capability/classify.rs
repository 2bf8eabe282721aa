//! Finds the row of the table for a file name.

use super::installed::of_this_machine;
use super::table::{DriverFile, Kind, TABLE, VERSION};

/// Lowest major version of a driver. Older drivers are not supported, and other projects have lower versions.
const LOWEST_MAJOR: u32 = 300;

impl DriverFile {
    /// Returns its file name in a driver of this version; `None` if the name does not depend on it
    /// ([`Kind::Separate`]).
    pub fn file_name(&self, version: &str) -> Option<String> {
        match self.kind {
            Kind::Library(stem) | Kind::Sub(_, stem) => Some(format!("{stem}.so.{version}")),
            Kind::Exact(name) | Kind::Program(name) | Kind::Link { name, .. } => Some(name.to_owned()),
            Kind::Data(path) => Some(base_name(path).replace(VERSION, version)),
            Kind::Separate(_) => None,
        }
    }

    /// Returns whether the row describes a file with this name in a driver of this version.
    pub fn is(&self, file_name: &str, version: &str) -> bool {
        match self.kind {
            Kind::Separate(stem) => versioned(file_name, stem).is_some_and(is_dotted),
            Kind::Data(_) => self.file_name(version).is_some_and(|name| {
                name == file_name || of_this_machine(&name).is_some_and(|name| name == file_name)
            }),
            _ => self.file_name(version).is_some_and(|name| name == file_name),
        }
    }

    /// Returns the stem before `.so.<driver version>`, if the name ends so.
    fn stem(&self) -> Option<&'static str> {
        match self.kind {
            Kind::Library(stem) | Kind::Sub(_, stem) => Some(stem),
            Kind::Data(path) => base_name(path).strip_suffix(VERSION)?.strip_suffix(".so."),
            Kind::Exact(_) | Kind::Separate(_) | Kind::Program(_) | Kind::Link { .. } => None,
        }
    }
}

/// Returns the row of a library, program or data file with this name in a driver of exactly this version. Links have no
/// row, since they are created, not found.
pub fn classify(file_name: &str, version: &str) -> Option<&'static DriverFile> {
    let files = TABLE.iter().filter(|file| !matches!(file.kind, Kind::Link { .. }));
    files.into_iter().find(|file| file.is(file_name, version))
}

/// Returns stem and driver version of a library in the table, for any driver: `libcuda.so.535.54.03`. Returns `None` for
/// libraries of other projects and for those without a driver version.
pub fn version_of(file_name: &str) -> Option<(&str, &str)> {
    let (stem, version) = file_name.split_once(".so.")?;
    let known = TABLE.iter().any(|file| file.stem() == Some(stem));
    (known && is_driver_version(version)).then_some((stem, version))
}

/// Returns whether the text is a driver version: `535.54.03`, `550.163.01`, `580.142`. It has two to four numbers, the first of
/// which is too large for a SONAME.
fn is_driver_version(text: &str) -> bool {
    let major = text.split('.').next().and_then(|number| number.parse::<u32>().ok());
    is_dotted(text)
        && (2..=4).contains(&text.split('.').count())
        && major.is_some_and(|major| major >= LOWEST_MAJOR)
}

/// Returns whether the text is at least two numbers separated by dots.
fn is_dotted(text: &str) -> bool {
    let number = |part: &str| (1..=5).contains(&part.len()) && part.bytes().all(|byte| byte.is_ascii_digit());
    text.contains('.') && text.split('.').all(number)
}

fn versioned<'a>(file_name: &'a str, stem: &str) -> Option<&'a str> {
    file_name.strip_prefix(stem)?.strip_prefix(".so.")
}

fn base_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capability::Capability::{self, Compat32, Compute, Display, Graphics, Utility};

    const VERSION: &str = "550.163.01";

    fn capabilities(file_name: &str) -> Option<&'static [Capability]> {
        classify(file_name, VERSION).map(|file| file.capabilities)
    }

    #[test]
    fn files_are_known_by_name_and_version_to_the_last_digit() {
        assert_eq!(capabilities("libnvidia-nvvm.so.550.163.01"), Some(&[Compute][..]));
        assert_eq!(capabilities("libnvidia-nvvm70.so.4"), Some(&[Compute][..]));
        assert_eq!(capabilities("nvidia-smi"), Some(&[Utility][..]));
        assert_eq!(capabilities("nvidia_icd.json"), Some(&[Display, Graphics][..]));
        let of_this_machine = format!("nvidia_icd.{}.json", std::env::consts::ARCH);
        assert_eq!(capabilities(&of_this_machine), Some(&[Display, Graphics][..]));
        assert_eq!(capabilities("nvidia_icd.i686.json"), None);
        assert_eq!(capabilities("libnvidia-egl-gbm.so.1.1.2"), Some(&[Display, Graphics][..]));
        assert_eq!(capabilities("libglxserver_nvidia.so.550.163.01"), Some(&[Display][..]));
        assert!(matches!(
            classify("libvdpau_nvidia.so.550.163.01", VERSION).unwrap().kind,
            Kind::Sub("vdpau", _)
        ));
        for other in [
            "libcuda.so.550.163.1",
            "libcuda.so.1",
            "libcuda.so",
            "libcudart.so.550.163.01",
            "libnvidia-egl-gbm.so.1",
            "nvidia-drm_gbm.so",
            "",
        ] {
            assert_eq!(capabilities(other), None, "{other}");
        }
    }

    #[test]
    fn other_drivers_files_are_told_from_other_projects() {
        for (name, expected) in [
            ("libcuda.so.535.54.03", Some(("libcuda", "535.54.03"))),
            ("libnvidia-ml.so.580.142", Some(("libnvidia-ml", "580.142"))),
            ("libvdpau_nvidia.so.470.256.02", Some(("libvdpau_nvidia", "470.256.02"))),
            ("libglxserver_nvidia.so.550.90.07", Some(("libglxserver_nvidia", "550.90.07"))),
            ("libcuda.so.1", None),
            ("libcuda.so.1.1", None),
            ("libcuda.so.550", None),
            ("libcuda.so.550.163.01.debug", None),
            ("libcuda.so.550..01", None),
            ("libcudart.so.12.4.127", None),
            ("libcudart.so.550.1.1", None),
            ("libnvidia-container.so.1.17.8", None),
            ("libnvidia-egl-wayland.so.1.1.18", None),
            ("libnvidia-nvvm70.so.4", None),
            ("libnvinfer.so.10.0.1", None),
            ("nvidia-smi", None),
        ] {
            assert_eq!(version_of(name), expected, "{name}");
        }
    }

    #[test]
    fn every_row_is_found_by_its_own_name_and_says_what_it_is_for() {
        for file in TABLE {
            assert!(!file.capabilities.is_empty() && file.capabilities.is_sorted(), "{file:?}");
            assert!(!file.capabilities.contains(&Compat32), "{file:?}");
            let name = file.file_name(VERSION).unwrap_or_else(|| match file.kind {
                Kind::Separate(stem) => format!("{stem}.so.1.2.3"),
                _ => panic!("{file:?} has no name"),
            });
            match file.kind {
                Kind::Link { .. } => assert_eq!(classify(&name, VERSION), None, "{file:?}"),
                _ => assert_eq!(classify(&name, VERSION), Some(file), "two rows have the name {name}"),
            }
        }
    }

    #[test]
    fn every_capability_but_compat32_has_a_file_that_every_driver_has() {
        for capability in Capability::ALL.into_iter().filter(|capability| *capability != Compat32) {
            assert!(TABLE.iter().any(|file| file.required && file.capabilities.contains(&capability)));
        }
    }
}
