//! The features of a kernel: built in, as a module, or absent. Read from its modules and, if its
//! package has one, from its configuration.

use super::index::Index;
use crate::artifacts::tree::Tree;
use std::collections::BTreeMap;

/// How a kernel provides a feature.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Part of the kernel image.
    BuiltIn,
    /// As a module.
    Module,
    /// Absent.
    Absent,
}

impl State {
    /// Whether the feature is available, built in or as a module.
    pub fn is_there(self) -> bool {
        self != Self::Absent
    }
}

impl std::fmt::Display for State {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str(match self {
            Self::BuiltIn => "built in",
            Self::Module => "a module",
            Self::Absent => "absent",
        })
    }
}

/// The features of one kernel.
#[derive(Debug, Clone)]
pub struct Features<'a> {
    index: &'a Index,
    /// `CONFIG_` options by name; `None` if the configuration is not known.
    config: Option<BTreeMap<String, State>>,
}

impl<'a> Features<'a> {
    /// Reads the features from a kernel's artifacts and modules.
    pub fn of(kernel: &[Tree], index: &'a Index) -> Self {
        let path = format!("boot/config-{}", index.release);
        let text = kernel.iter().find_map(|tree| tree.read(tree.file(&path).ok()?).ok());
        Self { index, config: text.map(|text| parse(&String::from_utf8_lossy(&text))) }
    }

    /// The features of a kernel of which only the modules are known.
    #[cfg(test)]
    pub(crate) fn without_configuration(index: &'a Index) -> Self {
        Self { index, config: None }
    }

    /// How the kernel provides the driver or file system whose module is called `name`.
    pub fn module(&self, name: &str) -> State {
        let name = name.replace('-', "_");
        if self.index.builtin.contains(&name) {
            State::BuiltIn
        } else if self.index.module(&name).is_some() {
            State::Module
        } else {
            State::Absent
        }
    }

    /// How the kernel provides the option `CONFIG_<name>`. `None` if its configuration is not
    /// known.
    pub fn option(&self, name: &str) -> Option<State> {
        let config = self.config.as_ref()?;
        Some(config.get(name).copied().unwrap_or(State::Absent))
    }

    /// Whether the kernel's version is at least this one; false for a release without a version.
    pub fn at_least(&self, major: u32, minor: u32) -> bool {
        version(&self.index.release).is_some_and(|found| found >= (major, minor))
    }
}

fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

fn parse(config: &str) -> BTreeMap<String, State> {
    let options = config.lines().filter_map(|line| {
        let (name, value) = line.strip_prefix("CONFIG_")?.split_once('=')?;
        let state = match value {
            "y" => State::BuiltIn,
            "m" => State::Module,
            _ => return None,
        };
        Some((name.to_owned(), state))
    });
    options.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn configuration_is_parsed() {
        let config = parse("# CONFIG_A is not set\nCONFIG_B=y\nCONFIG_C=m\nCONFIG_D=\"y\"\n");
        assert_eq!(config.get("B"), Some(&State::BuiltIn));
        assert_eq!(config.get("C"), Some(&State::Module));
        assert_eq!(config.len(), 2);
    }

    #[test]
    fn releases_are_compared_by_version() {
        assert_eq!(version("6.12.107+deb13-cloud-amd64"), Some((6, 12)));
        assert_eq!(version("6.5-rc1"), Some((6, 5)));
        assert_eq!(version("next"), None);
    }
}
