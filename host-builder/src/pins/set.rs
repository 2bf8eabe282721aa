//! What an artifact is for.

use image::capability::Capability;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fmt;

/// What an artifact is for. In a lock it is one word, such as `kernel` or `userspace-compute`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum Set {
    /// Kernel image and its modules.
    Kernel,
    /// Prebuilt modules of the GPU.
    GpuModules,
    /// Libraries and programs of the driver for all capabilities.
    Driver,
    /// Driver libraries and programs of a capability.
    Userspace(Capability),
    /// 32-bit driver libraries of a capability.
    Compat32(Capability),
    /// GSP firmware.
    Firmware,
    /// Source of the GPU's modules.
    ModuleSource,
    /// Compiler and kernel headers.
    Toolroot,
    /// Tools that make the payload's EROFS image.
    Payload,
    /// QEMU and tools that make disks.
    Vm,
}

const USERSPACE: &str = "userspace-";
const COMPAT32: &str = "compat32-";

impl Set {
    /// The driver's 64-bit libraries and programs for these capabilities.
    pub fn userspace(capabilities: &BTreeSet<Capability>) -> Vec<Self> {
        with_graphics(capabilities).into_iter().map(Self::Userspace).collect()
    }

    /// The driver's 32-bit libraries for these capabilities; empty without
    /// [`Capability::Compat32`].
    pub fn compat32(capabilities: &BTreeSet<Capability>) -> Vec<Self> {
        if !capabilities.contains(&Capability::Compat32) {
            return Vec::new();
        }
        with_graphics(capabilities).into_iter().map(Self::Compat32).collect()
    }

    /// All sets of an image with these capabilities, without the modules' sources and compiler,
    /// because the modules may be cached.
    pub fn image(capabilities: &BTreeSet<Capability>) -> Vec<Self> {
        let driver = [Self::userspace(capabilities), Self::compat32(capabilities)].concat();
        [vec![Self::Kernel, Self::GpuModules, Self::Driver, Self::Firmware], driver].concat()
    }
}

/// Adds graphics to display, which needs its packages.
fn with_graphics(capabilities: &BTreeSet<Capability>) -> BTreeSet<Capability> {
    let mut all = capabilities.clone();
    if all.contains(&Capability::Display) {
        all.insert(Capability::Graphics);
    }
    all
}

impl fmt::Display for Set {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kernel => out.write_str("kernel"),
            Self::GpuModules => out.write_str("gpu-modules"),
            Self::Driver => out.write_str("driver"),
            Self::Userspace(capability) => write!(out, "{USERSPACE}{capability}"),
            Self::Compat32(capability) => write!(out, "{COMPAT32}{capability}"),
            Self::Firmware => out.write_str("firmware"),
            Self::ModuleSource => out.write_str("module-source"),
            Self::Toolroot => out.write_str("toolroot"),
            Self::Payload => out.write_str("payload"),
            Self::Vm => out.write_str("vm"),
        }
    }
}

impl From<Set> for String {
    fn from(set: Set) -> Self {
        set.to_string()
    }
}

impl TryFrom<String> for Set {
    type Error = String;

    fn try_from(text: String) -> std::result::Result<Self, String> {
        let capability = |word: &str| word.parse().ok();
        let plain = [
            Self::Kernel,
            Self::GpuModules,
            Self::Driver,
            Self::Firmware,
            Self::ModuleSource,
            Self::Toolroot,
            Self::Payload,
            Self::Vm,
        ];
        let driver = || match text.strip_prefix(USERSPACE) {
            Some(word) => capability(word).map(Self::Userspace),
            None => capability(text.strip_prefix(COMPAT32)?).map(Self::Compat32),
        };
        let known = plain.into_iter().find(|set| set.to_string() == text);
        known.or_else(driver).ok_or_else(|| format!("unknown set {text:?}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_are_words_and_display_includes_graphics() {
        use Capability::{Compat32, Display, Graphics, Video};
        for set in [
            Set::Kernel,
            Set::GpuModules,
            Set::Driver,
            Set::ModuleSource,
            Set::Userspace(Graphics),
            Set::Compat32(Video),
        ] {
            assert_eq!(Set::try_from(set.to_string()), Ok(set));
        }
        assert!(Set::try_from("userspace".to_owned()).is_err());
        let display = BTreeSet::from([Display]);
        assert_eq!(Set::userspace(&display), [Display, Graphics].map(Set::Userspace));
        assert_eq!(Set::compat32(&display), []);
        let both = BTreeSet::from([Compat32, Video]);
        assert!(Set::image(&both).contains(&Set::Compat32(Video)));
    }
}
