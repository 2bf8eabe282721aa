//! Chooses the driver, and the kernel of a release page: from the options, the lock or the profile.

use super::sources::apt::{Apt, Packages, Scope};
use super::sources::{Access, Source};
use super::suites::{self, strs};
use crate::common::error::{Error, Result};
use crate::pins::lock::{Lock, by_number, upstream};
use crate::pins::profile;
use crate::pins::profile::{DRIVER, Firmware, Profile, with_driver};
use std::collections::{BTreeMap, BTreeSet};

/// What a lock is resolved for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// Version of the driver.
    pub driver: String,
    /// Value of `{kernel}`.
    pub kernel: Option<String>,
    /// Package versions, for a driver other than the profile's.
    pins: BTreeMap<String, String>,
}

impl Choice {
    /// The profile's choice.
    pub fn of(profile: &Profile) -> Self {
        let kernel = profile.kernel.version.clone();
        Self { driver: profile.driver.clone(), kernel, pins: BTreeMap::new() }
    }

    /// The same choice with versions pinned for packages of which the suite has versions for
    /// several drivers. `apt` is the driver's archive.
    pub fn settled(&self, profile: &Profile, apt: &Apt) -> Result<Self> {
        let names = of_driver(profile);
        if names.is_empty() || !self.pins.is_empty() {
            return Ok(self.clone());
        }
        let suite = &profile.driver_apt()?.suite;
        let named: Vec<_> = names.iter().map(|name| with_driver(name, &self.driver)).collect();
        // A package with the driver's version in its name does not exist for another driver.
        let offered = apt.versions(&named.iter().map(String::as_str).collect())?;
        if offered.values().any(Vec::is_empty) {
            Offered::of(profile, apt)?.newest(&self.driver)?;
        }
        let found = apt.resolve(Packages { names: &strs(&named), scope: Scope::Exact, suite })?;
        if found.iter().all(|artifact| upstream(&artifact.version) == self.driver) {
            return Ok(self.clone());
        }
        let offered = Offered::of(profile, apt)?;
        offered.newest(&self.driver)?;
        Ok(Self { pins: offered.pins(&self.driver)?, ..self.clone() })
    }

    /// Package names, with the versions that belong to the driver.
    pub fn pin(&self, names: &[String]) -> Vec<String> {
        let pinned = |name: &String| {
            let package = with_driver(name, &self.driver);
            match self.pins.get(name) {
                Some(version) => format!("{package}={version}"),
                None => package,
            }
        };
        names.iter().map(pinned).collect()
    }
}

/// The choice for a requested driver, exact or in the form `550.x`, and a requested kernel. What is
/// not requested comes from the lock, else from the profile.
pub fn choose(
    profile: &Profile,
    driver: Option<&str>,
    kernel: Option<&str>,
    lock: Option<&Lock>,
    access: Access,
) -> Result<Choice> {
    let lock = lock.filter(|lock| lock.profile == profile.name);
    // Where the profile has a branch, its newest driver replaces the one in the lock, which can be of the branch that the profile had before.
    let chosen = lock.filter(|_| !is_branch(&profile.driver));
    let mut choice = Choice::of(profile);
    if let Some(kernel) = kernel.map(str::to_owned).or_else(|| lock.and_then(|lock| lock.kernel.clone())) {
        if profile.kernel.version.is_none() {
            return Err(Error::new(format!(
                "profile {} has no [kernel] version, and its kernel is not chosen by --kernel",
                profile.name
            ))
            .hint("its kernel comes from a package: `pins resolve` takes the newest"));
        }
        choice.kernel = Some(kernel);
    }
    let asked = driver.or(chosen.map(|lock| lock.driver.as_str())).unwrap_or(&profile.driver);
    if profile.modules.package.is_none() {
        if is_branch(asked) {
            return Err(Error::new(format!(
                "--driver {asked}: expected a complete version, such as {}",
                profile.driver
            ))
            .hint("the addresses in the profile have no list of versions: see the publisher's page"));
        }
        asked.clone_into(&mut choice.driver);
        return Ok(choice);
    }
    if asked != profile.driver || is_branch(asked) {
        // The same apt state as for resolving another driver.
        let apt = Apt::open(access, &suites::driver(profile, "")?, &profile.arch)?;
        let offered = Offered::of(profile, &apt)?;
        choice.driver = offered.newest(asked)?;
        if choice.driver != profile.driver {
            choice.pins = offered.pins(&choice.driver)?;
        }
    }
    Ok(choice)
}

/// The packages with the driver's version: the modules' source first, then firmware.
fn of_driver(profile: &Profile) -> Vec<&str> {
    let mut names: Vec<&str> = profile.modules.package.iter().map(String::as_str).collect();
    if let Some(Firmware::Packages { packages }) = &profile.firmware {
        names.extend(strs(packages));
    }
    names
}

/// The driver packages that the archives offer.
struct Offered<'a> {
    /// The versions of each package, newest first.
    packages: BTreeMap<&'a str, Vec<String>>,
    /// The packages that must have the driver's version: the modules' source first, then firmware.
    of_driver: Vec<&'a str>,
    suites: String,
    /// Name of the profile.
    profile: &'a str,
}

impl<'a> Offered<'a> {
    fn of(profile: &'a Profile, apt: &Apt) -> Result<Self> {
        let from = profile.driver_apt()?;
        let mut suites = vec![from.suite.as_str()];
        suites.extend(strs(&from.base_suites));
        suites.extend(strs(&from.more_suites));
        let of_driver = of_driver(profile);
        let userspace = profile.userspace.values().flat_map(|group| strs(&group.packages));
        let names: BTreeSet<&str> = of_driver.iter().copied().chain(userspace).collect();
        let (named, plain): (BTreeSet<_>, BTreeSet<_>) = names.iter().partition(|name| name.contains(DRIVER));
        let packages = apt.versions(&plain)?;
        let mut offered = Self { packages, of_driver, suites: suites.join(", "), profile: &profile.name };
        for name in named {
            // One package per version: use the versions of the source package.
            let drivers = offered.upstreams(offered.of_driver.first().copied().unwrap_or_default());
            let all: Vec<_> = drivers.iter().map(|driver| with_driver(name, driver)).collect();
            let versions = apt.versions(&all.iter().map(String::as_str).collect())?;
            offered.packages.insert(name, versions.into_values().flatten().collect());
        }
        Ok(offered)
    }

    fn upstreams(&self, package: &str) -> Vec<&str> {
        let mut list: Vec<_> =
            self.packages.get(package).into_iter().flatten().map(|version| upstream(version)).collect();
        list.sort_by(|a, b| by_number(b, a));
        list.dedup();
        list
    }

    /// The newest matching version for which every package of the driver is offered.
    fn newest(&self, asked: &str) -> Result<String> {
        let source = self.of_driver.first().copied().unwrap_or_default();
        let whole =
            |version: &&str| self.of_driver.iter().all(|package| self.upstreams(package).contains(version));
        let mut matching = self.upstreams(source).into_iter().filter(|version| is_of(version, asked));
        matching.find(whole).map(str::to_owned).ok_or_else(|| {
            let offered = self.of_driver.iter().map(|package| format!("{package} {}", words(&self.upstreams(package))));
            Error::new(format!(
                "driver {asked} is not offered completely in {}: available versions: {}",
                self.suites,
                offered.collect::<Vec<_>>().join("; ")
            ))
            .hint(format!("{}choose a version with all packages: pins update --driver VERSION; or add suites to the profile ([apt] more_suites)", self.elsewhere(asked)))
        })
    }

    /// The version of each package for a driver. The suite decides for packages that have other
    /// version numbers than the driver.
    fn pins(&self, driver: &str) -> Result<BTreeMap<String, String>> {
        let drivers: BTreeSet<_> =
            self.of_driver.iter().flat_map(|package| self.upstreams(package)).collect();
        let mut pins = BTreeMap::new();
        let mut lacking = Vec::new();
        for (package, versions) in &self.packages {
            match versions.iter().find(|version| upstream(version) == driver) {
                Some(version) => drop(pins.insert((*package).to_owned(), version.clone())),
                None if versions.is_empty()
                    || self.upstreams(package).iter().any(|version| drivers.contains(version)) =>
                {
                    lacking.push(format!("{package} {}", words(&self.upstreams(package))));
                }
                None => {}
            }
        }
        if lacking.is_empty() {
            return Ok(pins);
        }
        Err(Error::new(format!("driver {driver}: these packages of the profile are not offered in that version in {}: {}", self.suites, lacking.join("; ")))
            .hint(format!("{}a driver of another branch has other packages: write a file for it, with image/profiles/drivers/550.toml as the example, and pass it with --driver FILE", self.elsewhere(driver))))
    }

    /// The other built-in profiles that have the driver, as the start of a remedy.
    fn elsewhere(&self, asked: &str) -> String {
        let carried = profile::carried();
        let others = carried
            .iter()
            .filter(|(name, driver)| *name != self.profile && (is_of(driver, asked) || is_of(asked, driver)));
        let others: Vec<_> = others.map(profile::named).collect();
        if others.is_empty() {
            String::new()
        } else {
            format!("another built-in profile has it: {}; or ", others.join(" or "))
        }
    }
}

fn words(versions: &[&str]) -> String {
    if versions.is_empty() { "(none)".into() } else { versions.join(" ") }
}

/// Whether this is a branch in the form `550.x`.
fn is_branch(driver: &str) -> bool {
    driver.split('.').any(|part| part == "x")
}

/// Whether a version is the requested one, or of the branch in the form `550.x`.
pub fn is_of(version: &str, asked: &str) -> bool {
    match asked.split_once(".x") {
        Some((branch, _)) => version.strip_prefix(branch).is_some_and(|rest| rest.starts_with('.')),
        None => version == asked,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offered() -> Offered<'static> {
        let packages: [(&str, &[&str]); 5] = [
            ("source", &["580.90-1", "550.163.01-4~bpo13+1", "550.163.01-2", "550.90.07-1", "535.1-1"]),
            ("firmware", &["550.163.01-2", "550.90.07-1", "535.1-1"]),
            ("libcuda1", &["580.90-1", "550.163.01-2", "550.90.07-1", "535.1-1"]),
            ("libnvidia-gpucomp", &["550.163.01-2", "550.90.07-1"]),
            ("libnvidia-egl-gbm1", &["1.1.2-1"]),
        ];
        let packages =
            packages.map(|(name, list)| (name, list.iter().map(|text| (*text).to_owned()).collect()));
        Offered {
            packages: packages.into(),
            of_driver: vec!["source", "firmware"],
            suites: "trixie".into(),
            profile: "debian-13",
        }
    }

    #[test]
    fn newest_of_a_branch_has_all_packages() {
        let offered = offered();
        assert_eq!(offered.newest("550.x").unwrap(), "550.163.01");
        assert_eq!(offered.newest("550.90.07").unwrap(), "550.90.07");
        let error = offered.newest("580.x").unwrap_err().to_string();
        assert!(
            error.contains("source 580.90 550.163.01") && error.contains("firmware 550.163.01"),
            "{error}"
        );
        assert!(offered.newest("55.x").is_err() && offered.newest("550.9").is_err());
    }

    #[test]
    fn only_packages_of_the_driver_are_pinned() {
        let offered = offered();
        let pins = offered.pins("550.90.07").unwrap();
        assert_eq!(pins["libcuda1"], "550.90.07-1");
        assert!(!pins.contains_key("libnvidia-egl-gbm1"));
        let choice = Choice { driver: "550.90.07".into(), kernel: None, pins };
        let names = ["libcuda1", "libnvidia-egl-gbm1"].map(str::to_owned);
        assert_eq!(choice.pin(&names), ["libcuda1=550.90.07-1", "libnvidia-egl-gbm1"]);
    }

    #[test]
    fn branch_without_a_package_is_refused_by_name() {
        let error = offered().pins("535.1").unwrap_err().to_string();
        assert!(
            error.contains("libnvidia-gpucomp 550.163.01 550.90.07") && !error.contains("egl-gbm"),
            "{error}"
        );
    }

    #[test]
    fn driver_of_another_profile_names_that_profile() {
        let remedy = |asked| offered().newest(asked).unwrap_err().remedy().unwrap().to_owned();
        let found = remedy("570.x");
        assert!(found.contains("--profile ch-6.12.8-kernel-2-20251211 (driver 570.86.16)"), "{found}");
        assert!(
            remedy("570.86.16").contains("ch-6.12.8") && remedy("580.x").contains("--profile ubuntu-24.04")
        );
        // Without a profile that has it, or with only this one, nothing is added.
        for asked in ["999.x", "570.86.15", "550.163.02"] {
            assert!(remedy(asked).starts_with("choose a version with all packages"), "{asked}");
        }
    }
}
