//! Arguments that several commands share: where artifacts come from, durations, the default lock.

use crate::artifacts::cache::Cache;
use crate::common::error::Error;
use crate::common::ui::Ui;
use crate::pins::lock::Lock;
use crate::pins::profile::{self, Profile, pair};
use crate::resolve::sources::Access;
use crate::resolve::sources::apt::NamedArchive;
use clap::Args;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The default lock, in the current directory.
pub const DEFAULT_LOCK: &str = "initrd.lock";

/// Where artifacts may come from.
#[derive(Debug, Clone, Default, Args)]
pub struct AccessArgs {
    /// Do not use the network. It is an error if an artifact is neither in the cache nor in the
    /// mirror.
    #[arg(long)]
    pub offline: bool,
    /// Directory written by `pins vendor`. Artifacts found there are not fetched over the network.
    #[arg(long, value_name = "DIR")]
    pub mirror: Option<PathBuf>,
    /// Where the archive of a distribution is: debian=URI or ubuntu=URI. May be given more than once [default:
    /// GPU_INITRD_ARCHIVE_DEBIAN and GPU_INITRD_ARCHIVE_UBUNTU, else the machine's own, else beside that on the same mirror,
    /// else the distribution's own address].
    #[arg(long, value_name = "NAME=URI")]
    pub archive: Vec<NamedArchive>,
}

impl AccessArgs {
    /// The access that sources receive.
    pub fn of<'a>(&'a self, cache: &'a Cache, ui: &'a Ui) -> Access<'a> {
        Access { cache, ui, offline: self.offline, mirror: self.mirror.as_deref(), archives: &self.archive }
    }
}

/// Which kernel and which driver.
#[derive(Debug, Clone, Default, Args)]
pub struct ProfileArgs {
    /// Profile: a built-in name, KERNEL+DRIVER, or a file [default: that of the lock, else debian-13].
    #[arg(long, value_name = "NAME|FILE", conflicts_with_all = ["kernel", "driver"])]
    pub profile: Option<String>,
    /// Kernel: debian-13, ubuntu-24.04, ubuntu-26.04, or a file [default: debian-13].
    #[arg(long, value_name = "NAME|FILE")]
    pub kernel: Option<String>,
    /// Driver: a branch (550, 580, 595, 615), a full version of one of them, or a file [default: that of the kernel's built-in
    /// profile].
    #[arg(long, value_name = "NAME|VERSION|FILE")]
    pub driver: Option<String>,
}

impl ProfileArgs {
    /// Loads the profile, with its text.
    pub fn load(&self, lock: &Path) -> Result<(Profile, String), Error> {
        if self.kernel.is_none() && self.driver.is_none() {
            return profile_or_locks(self.profile.as_deref(), lock);
        }
        let (default, _) = pair::split(profile::DEFAULT).expect("the default is a pair");
        let kernel = self.kernel.as_deref().unwrap_or(default);
        let driver = self.driver.as_deref().unwrap_or_else(|| pair::first_driver(kernel));
        Profile::pair(kernel, driver)
    }
}

/// Loads the named profile, else the one that the lock was resolved from, else the default.
pub fn profile_or_locks(name: Option<&str>, lock: &Path) -> Result<(Profile, String), Error> {
    if let Some(name) = name {
        return Profile::load(name);
    }
    // The profile of another file has to be named. What is wrong with the lock is said where it is used.
    let locks = Lock::read(lock).ok().flatten().and_then(|lock| Profile::load(&lock.profile).ok());
    locks.map_or_else(|| Profile::load(profile::DEFAULT), Ok)
}

/// Parses a duration: `90`, `90s`, `1500ms` or `2m`.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let time = image::config::duration(text).filter(|time| !time.is_zero());
    time.ok_or_else(|| "expected a time greater than 0, such as 60s, 1500ms or 2m".into())
}

/// How long a guest may take to answer: as stated, else 10 s, or 60 s where it is waited for.
pub fn patience(said: Option<Duration>, wait: bool) -> Duration {
    said.unwrap_or(Duration::from_secs(if wait { 60 } else { 10 }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_or_refused() {
        assert_eq!(duration("90"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("1500ms"), Ok(Duration::from_millis(1500)));
        assert_eq!(duration("2m"), Ok(Duration::from_mins(2)));
        for text in ["", "0", "0s", "s", "-1", "2h", "1.5s", "99999999999"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }
}
