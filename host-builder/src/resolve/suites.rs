//! The suites and the architecture that packages of a profile come from.

use crate::pins::profile::Profile;

/// Architecture of 32-bit libraries beside x86_64, as `uname -m` says it.
pub const ARCH32: &str = "i686";
/// The same as Debian says it.
pub const DEBIAN_ARCH32: &str = "i386";

/// The same list of borrowed strings.
pub fn strs(list: &[String]) -> Vec<&str> {
    list.iter().map(String::as_str).collect()
}

/// The suites beside the profile's own that packages come from. The same list when they are fetched as when they were
/// resolved: another one would be another state, with package lists of its own.
pub fn suites<'a>(profile: &'a Profile, driver: &str) -> Vec<&'a str> {
    let vm = profile.vm.iter().map(|vm| vm.suite.as_str());
    vm.chain(driver_suites(profile, driver)).collect()
}

/// The suites beside the profile's own that a driver may come from.
pub fn driver_suites<'a>(profile: &'a Profile, driver: &str) -> Vec<&'a str> {
    let other = profile.apt.iter().filter(|_| driver != profile.driver);
    other.flat_map(|apt| strs(&apt.more_suites)).collect()
}
