//! What a kernel can do: built in, as a module, or not at all. Asked of its modules and, where its package brings one, of its
//! configuration.

use super::index::Index;
use crate::artifacts::tree::Tree;
use std::collections::BTreeMap;

/// How a kernel has a feature.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Part of the kernel image.
    BuiltIn,
    /// A module.
    Module,
    /// Not at all.
    Absent,
}

impl State {
    /// Whether it is there, one way or the other.
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

/// What one kernel can do.
#[derive(Debug, Clone)]
pub struct Features<'a> {
    index: &'a Index,
    /// `CONFIG_` options by name; `None` when nobody says.
    config: Option<BTreeMap<String, State>>,
}

impl<'a> Features<'a> {
    /// Of what a kernel comes in, and its modules.
    pub fn of(kernel: &[Tree], index: &'a Index) -> Self {
        let path = format!("boot/config-{}", index.release);
        let text = kernel.iter().find_map(|tree| tree.read(tree.file(&path).ok()?).ok());
        Self { index, config: text.map(|text| parse(&String::from_utf8_lossy(&text))) }
    }

    /// Of a kernel that says nothing but which modules it has.
    #[cfg(test)]
    pub(crate) fn without_configuration(index: &'a Index) -> Self {
        Self { index, config: None }
    }

    /// How it has the driver or file system that is called `name` as a module.
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

    /// How it has the option `CONFIG_<name>`. `None` when its configuration is not known.
    pub fn option(&self, name: &str) -> Option<State> {
        let config = self.config.as_ref()?;
        Some(config.get(name).copied().unwrap_or(State::Absent))
    }

    /// Whether its version is at least this. A release that says no version is not.
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
    fn a_configuration_is_read() {
        let config = parse("# CONFIG_A is not set\nCONFIG_B=y\nCONFIG_C=m\nCONFIG_D=\"y\"\n");
        assert_eq!(config.get("B"), Some(&State::BuiltIn));
        assert_eq!(config.get("C"), Some(&State::Module));
        assert_eq!(config.len(), 2);
    }

    #[test]
    fn releases_have_versions() {
        assert_eq!(version("6.12.107+deb13-cloud-amd64"), Some((6, 12)));
        assert_eq!(version("6.5-rc1"), Some((6, 5)));
        assert_eq!(version("next"), None);
    }
}
