//! Driver capabilities, with the names in `NVIDIA_DRIVER_CAPABILITIES`, and the driver files that each of them needs.

mod classify;
pub mod installed;
mod table;

pub use self::classify::{classify, version_of};
pub use self::table::{DriverFile, Kind, TABLE, VERSION};

use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// The variable with which an image or its user requests capabilities.
pub const VARIABLE: &str = "NVIDIA_DRIVER_CAPABILITIES";
/// CUDA images that are older than that variable have the first of these variables but not the second. The toolkit gives them
/// every capability.
const LEGACY: (&str, &str) = ("CUDA_VERSION", "NVIDIA_REQUIRE_CUDA");

/// One capability. The names are those of NVIDIA's container toolkit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Capability {
    /// 32-bit libraries in addition to the 64-bit ones.
    Compat32,
    /// CUDA and OpenCL.
    Compute,
    /// X11 displays.
    Display,
    /// OpenGL, EGL and Vulkan.
    Graphics,
    /// NGX, for example DLSS.
    Ngx,
    /// nvidia-smi and NVML.
    Utility,
    /// Video encoding and decoding.
    Video,
}

/// An unknown capability.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown driver capability {word:?}: expected all, or a list of {}", Capability::names())]
pub struct UnknownCapability {
    /// The word.
    pub word: String,
}

impl Capability {
    /// All capabilities, ordered by name.
    pub const ALL: [Self; 7] =
        [Self::Compat32, Self::Compute, Self::Display, Self::Graphics, Self::Ngx, Self::Utility, Self::Video];
    /// Default of NVIDIA's container toolkit if a container requests nothing.
    pub const DEFAULT: [Self; 2] = [Self::Compute, Self::Utility];

    /// Returns the name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Compat32 => "compat32",
            Self::Compute => "compute",
            Self::Display => "display",
            Self::Graphics => "graphics",
            Self::Ngx => "ngx",
            Self::Utility => "utility",
            Self::Video => "video",
        }
    }

    fn names() -> String {
        Self::ALL.map(Self::name).join(", ")
    }
}

impl std::fmt::Display for Capability {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str(self.name())
    }
}

impl std::str::FromStr for Capability {
    type Err = UnknownCapability;

    fn from_str(word: &str) -> Result<Self, Self::Err> {
        let known = Self::ALL.into_iter().find(|capability| capability.name() == word);
        known.ok_or_else(|| UnknownCapability { word: word.into() })
    }
}

/// Returns the capabilities that an environment requests with [`VARIABLE`], as the toolkit reads it. Without the variable, an
/// older CUDA image gets every capability.
///
/// # Errors
/// [`UnknownCapability`] for an unknown name.
pub fn requested_by(env: &BTreeMap<String, String>) -> Result<BTreeSet<Capability>, UnknownCapability> {
    let says = |name: &str| env.get(name).is_some_and(|value| !value.is_empty());
    match env.get(VARIABLE) {
        None if says(LEGACY.0) && !says(LEGACY.1) => Ok(Capability::ALL.into()),
        value => requested(value.map(String::as_str)),
    }
}

/// Parses the value of [`VARIABLE`] as the toolkit does: unset or empty is [`Capability::DEFAULT`], `all` is every
/// capability, otherwise names separated by commas.
///
/// # Errors
/// [`UnknownCapability`] for an unknown name.
pub fn requested(value: Option<&str>) -> Result<BTreeSet<Capability>, UnknownCapability> {
    let words = value.unwrap_or_default().split(',').map(str::trim).filter(|word| !word.is_empty());
    let mut set = BTreeSet::new();
    for word in words {
        if word == "all" {
            set.extend(Capability::ALL);
        } else {
            set.insert(word.parse()?);
        }
    }
    if set.is_empty() {
        set.extend(Capability::DEFAULT);
    }
    Ok(set)
}

/// Returns whether a container that requested `asked` gets a driver file of the capabilities `belongs`
/// ([`crate::manifest::File::capabilities`]). A 32-bit file has [`Capability::Compat32`] and its other capabilities; both
/// must be requested.
pub fn wanted(belongs: &[Capability], asked: &BTreeSet<Capability>) -> bool {
    let compat32 = Capability::Compat32;
    (!belongs.contains(&compat32) || asked.contains(&compat32))
        && belongs.iter().any(|capability| *capability != compat32 && asked.contains(capability))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_32_bit_file_must_be_asked_for_twice() {
        use Capability::{Compat32, Compute, Graphics, Video};
        let asked = |list: &[Capability]| list.iter().copied().collect::<BTreeSet<_>>();
        assert!(wanted(&[Compute, Graphics], &asked(&[Graphics])));
        assert!(!wanted(&[Compute, Graphics], &asked(&[Compat32, Video])));
        assert!(wanted(&[Compat32, Compute], &asked(&[Compat32, Compute])));
        assert!(!wanted(&[Compat32, Compute], &asked(&[Compute])));
        assert!(!wanted(&[Compat32, Compute], &asked(&[Compat32, Video])));
    }

    #[test]
    fn a_request_is_read_as_the_toolkit_reads_it() {
        use Capability::{Compute, Utility, Video};
        let of = |text| requested(text).map(|set| set.into_iter().collect::<Vec<_>>());
        assert_eq!(of(None).unwrap(), [Compute, Utility]);
        assert_eq!(of(Some("")).unwrap(), [Compute, Utility]);
        assert_eq!(of(Some("video, compute,")).unwrap(), [Compute, Video]);
        assert_eq!(of(Some("utility,all")).unwrap(), Capability::ALL);
        let error = of(Some("compute,graphic")).unwrap_err().to_string();
        assert!(error.contains("\"graphic\"") && error.contains("graphics"), "{error}");
    }

    #[test]
    fn an_image_of_cuda_from_before_the_variable_gets_everything() {
        let of = |env: &[(&str, &str)]| {
            let env = env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
            requested_by(&env).unwrap()
        };
        let (all, default) = (BTreeSet::from(Capability::ALL), BTreeSet::from(Capability::DEFAULT));
        let version = ("CUDA_VERSION", "8.0.61");
        assert_eq!(of(&[version]), all);
        assert_eq!(of(&[version, ("NVIDIA_REQUIRE_CUDA", "")]), all);
        assert_eq!(of(&[version, ("NVIDIA_REQUIRE_CUDA", "cuda>=8.0")]), default);
        assert_eq!(of(&[version, (VARIABLE, "")]), default);
        assert_eq!(of(&[version, (VARIABLE, "video")]), BTreeSet::from([Capability::Video]));
        assert_eq!(of(&[("CUDA_VERSION", "")]), default);
        assert_eq!(of(&[]), default);
    }

    #[test]
    fn names_are_those_that_serde_writes() {
        for capability in Capability::ALL {
            assert_eq!(serde_json::to_value(capability).unwrap(), capability.name());
        }
    }
}
