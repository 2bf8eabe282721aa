//! Profiles: which kernel, which driver, and where they come from. A lock records what a profile
//! resolved to.

mod apt;
mod artifact;
mod modules;
pub mod pair;

pub use self::apt::{Apt, Distribution};
pub use self::artifact::{Artifact, Values};
pub use self::modules::{DRIVER, ModuleSource, Modules, Patch, with_driver};

use super::lock::Set;
use crate::common::error::{Doing, Error, Result};
use crate::common::plain;
use image::capability::Capability;
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Built-in profiles that are not a kernel and a driver that can be chosen for themselves.
const WHOLE: &[(&str, &str)] = &[(
    "ch-6.12.8-kernel-2-20251211",
    include_str!("../../../../image/profiles/ch-6.12.8-kernel-2-20251211.toml"),
)];
/// The default profile.
pub const DEFAULT: &str = "debian-13";

/// One profile.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    /// Its name.
    pub name: String,
    /// One-line description.
    pub description: String,
    /// Architecture, as `uname -m` prints it.
    pub arch: String,
    /// Full driver version. A lock may have another one: `pins update --driver`.
    pub driver: String,
    /// Day of its release, YYYY-MM-DD.
    pub released: Option<String>,
    /// The package archive.
    pub apt: Option<Apt>,
    /// The archive of the driver's packages, if it is another one.
    pub driver_apt: Option<Apt>,
    /// The kernel.
    pub kernel: Kernel,
    /// Driver libraries and programs, by the capability that they are for.
    #[serde(default)]
    pub userspace: BTreeMap<Capability, Userspace>,
    /// GSP firmware.
    pub firmware: Option<Firmware>,
    /// The GPU's kernel modules.
    pub modules: Modules,
    /// Packages with the compiler.
    pub toolroot: Option<Toolroot>,
    /// Packages that make the payload's EROFS image.
    pub payload: Option<Packages>,
    /// Packages that run a guest on this machine.
    pub vm: Option<Vm>,
    /// Artifacts from other sources than a package archive.
    #[serde(default)]
    pub artifact: Vec<Artifact>,
    /// Base directory of relative paths.
    #[serde(skip)]
    pub directory: PathBuf,
}

/// The kernel, and its modules that every boot needs.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Kernel {
    /// Package of the image, or a metapackage; `None` if the kernel is an artifact.
    pub package: Option<String>,
    /// Packages with the rest of the kernel, if its modules are in separate packages. `{release}`
    /// is the image's release.
    #[serde(default)]
    pub more_packages: Vec<String>,
    /// Value of `{kernel}` in the addresses of artifacts.
    pub version: Option<String>,
    /// Its release, if the artifacts have several.
    pub release: Option<String>,
    /// Modules by name.
    pub modules: Vec<String>,
    /// Built-in modules, for a kernel without modules.builtin.
    #[serde(default)]
    pub builtin: Vec<String>,
}

/// GSP firmware.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(untagged, deny_unknown_fields)]
pub enum Firmware {
    /// Packages with the firmware.
    Packages {
        /// Names; `{driver}` is the driver's version.
        packages: Vec<String>,
    },
    /// `firmware = "none"`: the image has no firmware.
    Word(NoFirmware),
}

/// The value for an image without firmware.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NoFirmware {
    /// None.
    None,
}

/// Packages by name.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Packages {
    /// Names.
    pub packages: Vec<String>,
}

/// The packages of one capability.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Userspace {
    /// Names.
    pub packages: Vec<String>,
    /// Names of the packages with its 32-bit libraries, for [`Capability::Compat32`].
    #[serde(default)]
    pub compat32: Vec<String>,
}

/// Packages that are unpacked into a directory to run programs from it.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Toolroot {
    /// Names; their dependencies are included.
    pub packages: Vec<String>,
    /// Links that maintainer scripts would create.
    pub links: BTreeMap<String, String>,
}

/// Packages for running a guest.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Vm {
    /// Suite of the packages.
    pub suite: String,
    /// Names; their dependencies are included.
    pub packages: Vec<String>,
}

/// The built-in profiles, each with its driver.
pub fn carried() -> Vec<(String, String)> {
    let driver = |name: String| {
        let driver = Profile::load(&name).expect("a test loads them all").0.driver;
        (name, driver)
    };
    names().into_iter().map(driver).collect()
}

/// The names of the built-in profiles: pairs of a kernel and a driver that are known to work, and whole profiles.
pub fn names() -> Vec<String> {
    let whole = WHOLE.iter().map(|(name, _)| (*name).to_owned());
    pair::names().into_iter().chain(whole).collect()
}

/// How to choose one of [`carried`].
pub fn named((name, driver): &(String, String)) -> String {
    format!("--profile {name} (driver {driver})")
}

impl Profile {
    /// A built-in profile by its name, a kernel and a driver as `KERNEL+DRIVER`, or one from a file (anything with a `/` or that ends in
    /// `.toml`). Returns its text, too.
    pub fn load(name: &str) -> Result<(Self, String)> {
        if let Some((_, text)) = WHOLE.iter().find(|(known, _)| *known == name) {
            return Ok((Self::parse(text, name)?, (*text).to_owned()));
        }
        let path = Path::new(name);
        match pair::split(name) {
            // A path can contain a plus.
            Some((kernel, driver)) if !path.is_file() => Self::pair(kernel, driver),
            _ if pair::is_path(name) => {
                let text = plain::given(path).doing("reading the profile", path)?;
                let mut profile = Self::parse(&text, name)?;
                path.parent().unwrap_or(Path::new("")).clone_into(&mut profile.directory);
                Ok((profile, text))
            }
            _ => Err(Error::new(format!("no profile named {name:?}"))
                .hint(format!("use one of: {}; or pass a file: ./{name}.toml", names().join(", ")))),
        }
    }

    /// The profile of a kernel and a driver, each by name or from a file. Returns its text, too.
    pub fn pair(kernel: &str, driver: &str) -> Result<(Self, String)> {
        let joined = pair::join(kernel, driver)?;
        let profile = Self::parse(&joined.text, &joined.name)?;
        Ok((Self { directory: joined.directory, ..profile }, joined.text))
    }

    /// Whether it has an artifact for a set.
    pub fn has_artifact(&self, set: Set) -> bool {
        self.artifact.iter().any(|artifact| artifact.sets.contains(&set))
    }

    /// Where packages come from. Returns an error if the profile needs this and does not state it.
    pub fn apt(&self) -> Result<&Apt> {
        self.apt.as_ref().ok_or_else(|| self.lacks("[apt]", "packages"))
    }

    /// Where the driver's packages come from.
    pub fn driver_apt(&self) -> Result<&Apt> {
        self.driver_apt.as_ref().map_or_else(|| self.apt(), Ok)
    }

    fn lacks(&self, table: &str, what: &str) -> Error {
        Error::new(format!("profile {} names {what} and has no {table}", self.name))
            .hint(format!("add {table} to the profile, as in image/profiles/kernels/debian-13.toml"))
    }

    /// Parses a profile; `name` is its name in errors.
    pub fn parse(text: &str, name: &str) -> Result<Self> {
        let mut profile: Self = toml::from_str(text).map_err(|error| {
            Error::new(format!("profile {name} is not valid"))
                .source(error)
                .hint("compare it with the files in image/profiles")
        })?;
        if profile.userspace.contains_key(&Capability::Compat32) {
            return Err(Error::new(format!(
                "profile {name} has [userspace.compat32], expected the 32-bit packages with what they are for"
            ))
            .hint("list them in the groups of their capabilities: [userspace.compute] compat32 = [...]"));
        }
        if profile.arch != "x86_64" && profile.userspace.values().any(|group| !group.compat32.is_empty()) {
            return Err(Error::new(format!("profile {name} has 32-bit packages for {}", profile.arch))
                .hint("NVIDIA's 32-bit libraries are for x86_64: remove the lists `compat32`"));
        }
        profile.check()?;
        // One archive is opened once.
        profile.driver_apt.take_if(|driver_apt| profile.apt.as_ref() == Some(driver_apt));
        Ok(profile)
    }

    /// Checks that every part of an image has exactly one source.
    fn check(&self) -> Result<()> {
        let firmware = matches!(&self.firmware, Some(Firmware::Packages { .. }));
        let tools = self.toolroot.is_some() || self.vm.is_some() || self.payload.is_some();
        let packages = tools || self.kernel.package.is_some() || self.modules.package.is_some();
        if self.apt.is_none() && (packages || firmware || !self.userspace.is_empty()) {
            return Err(self.lacks("[apt]", "packages"));
        }
        if self.modules.package.is_some() && self.modules.subdir.is_none() {
            return Err(self.lacks("[modules] subdir", "a package with the modules' source"));
        }
        if self.kernel.package.is_none() && !self.kernel.more_packages.is_empty() {
            return Err(self.lacks("[kernel] package", "more packages of the kernel"));
        }
        if self.modules.package.is_some() && self.toolroot.is_none() {
            return Err(self.lacks("[toolroot]", "the source of modules"));
        }
        let of_capability = |set: &Set| matches!(set, Set::Userspace(_));
        let parts = self.artifact.iter().any(|artifact| artifact.sets.iter().any(of_capability));
        for (set, package, key) in [
            (Set::Kernel, self.kernel.package.is_some(), "[kernel] package"),
            (Set::GpuModules, self.modules.package.is_some(), "[modules] package"),
            (Set::Driver, parts || !self.userspace.is_empty(), "[userspace]"),
        ] {
            if !package && !self.has_artifact(set) {
                return Err(Error::new(format!(
                    "profile {} has no {set}: expected {key}, or an artifact with that set",
                    self.name
                ))
                .hint(format!("add [[artifact]] with sets = [\"{set}\"] and a url")));
            }
        }
        self.artifact.iter().try_for_each(Artifact::check)?;
        let mut names: Vec<_> = self.artifact.iter().map(|artifact| &artifact.name).collect();
        names.sort();
        match names.windows(2).find(|pair| pair[0] == pair[1]) {
            None => Ok(()),
            Some(pair) => {
                Err(Error::new(format!("profile {} has two artifacts named {}", self.name, pair[0]))
                    .hint("rename one of them"))
            }
        }
    }

    /// Whether it has packages for these capabilities.
    pub fn check_capabilities(&self, capabilities: &BTreeSet<Capability>) -> Result<()> {
        // An artifact with the whole driver is checked when it is unpacked.
        if self.has_artifact(Set::Driver) {
            return Ok(());
        }
        let has = |capability: &Capability| match capability {
            Capability::Compat32 => self.userspace.values().any(|group| !group.compat32.is_empty()),
            _ => self.userspace.contains_key(capability),
        };
        let known: Vec<_> =
            Capability::ALL.iter().filter(|capability| has(capability)).map(|c| c.name()).collect();
        match capabilities.iter().find(|capability| !has(capability)) {
            None => Ok(()),
            Some(capability) => Err(Error::new(format!(
                "profile {} has no packages for capability {capability} (it has packages for {})",
                self.name,
                known.join(", ")
            ))
            .hint(match capability {
                Capability::Compat32 => "choose from these with --capabilities, or add 32-bit packages to the groups of your own profile: [userspace.compute] compat32 = [...]".to_owned(),
                _ => format!("choose from these with --capabilities, or add [userspace.{capability}] to your own profile"),
            })),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn embedded_profiles_are_valid_and_have_their_listed_names() {
        for name in names() {
            assert_eq!(Profile::load(&name).unwrap().0.name, name);
        }
        assert!(names().iter().any(|name| name == DEFAULT));
    }

    #[test]
    fn unknown_name_lists_the_known_ones() {
        let error = Profile::load("nope").unwrap_err();
        assert!(error.remedy().unwrap().contains("debian-13"));
    }

    #[test]
    fn capability_without_packages_lists_the_others() {
        let mut profile = Profile::load(DEFAULT).unwrap().0;
        let all = BTreeSet::from(Capability::ALL);
        profile.check_capabilities(&all).unwrap();
        profile.userspace.remove(&Capability::Ngx);
        let error = profile.check_capabilities(&all).unwrap_err();
        assert!(error.to_string().contains("ngx") && error.to_string().contains("graphics"), "{error}");
    }

    #[test]
    fn packages_of_32_bits_are_listed_by_capability() {
        let whole = Profile::load(DEFAULT).unwrap().1;
        let text = whole.replace("[userspace.ngx]", "[userspace.compat32]");
        assert!(Profile::parse(&text, "x").unwrap_err().remedy().unwrap().contains("compat32 = "));
        let text = whole.replace("\"x86_64\"", "\"aarch64\"");
        assert!(Profile::parse(&text, "x").unwrap_err().to_string().contains("aarch64"));
    }

    #[test]
    fn unknown_key_is_an_error() {
        let text = format!("bogus = 1\n{}", Profile::load(DEFAULT).unwrap().1);
        assert!(Profile::parse(&text, "x").unwrap_err().chain().contains("bogus"));
    }
}
