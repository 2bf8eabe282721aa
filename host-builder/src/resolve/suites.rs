//! The suites and the architecture that packages of a profile come from.

use crate::pins::profile::Profile;

/// Architecture of 32-bit libraries on x86_64, as `uname -m` says it.
pub const ARCH32: &str = "i686";
/// The same as Debian says it.
pub const DEBIAN_ARCH32: &str = "i386";

/// Borrows each string.
pub fn strs(list: &[String]) -> Vec<&str> {
    list.iter().map(String::as_str).collect()
}

/// The suites for packages besides the profile's own. Fetching must use the same list as resolving,
/// because another list means another apt state, with its own package lists.
pub fn suites<'a>(profile: &'a Profile, driver: &str) -> Vec<&'a str> {
    let vm = profile.vm.iter().map(|vm| vm.suite.as_str());
    vm.chain(driver_suites(profile, driver)).collect()
}

/// The suites besides the profile's own in which a driver may be.
pub fn driver_suites<'a>(profile: &'a Profile, driver: &str) -> Vec<&'a str> {
    let other = profile.apt.iter().filter(|_| driver != profile.driver);
    other.flat_map(|apt| strs(&apt.more_suites)).collect()
}
