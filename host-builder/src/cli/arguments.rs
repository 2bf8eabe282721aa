//! What several commands have in common: where artifacts come from, times, the usual lock.

use crate::artifacts::cache::Cache;
use crate::common::ui::Ui;
use crate::resolve::sources::Access;
use clap::Args;
use std::path::PathBuf;
use std::time::Duration;

/// The lock of a directory, unless another is named.
pub const DEFAULT_LOCK: &str = "initrd.lock";

/// Where artifacts may come from.
#[derive(Debug, Clone, Default, Args)]
pub struct AccessArgs {
    /// Open no socket: everything is in the cache or in the mirror, or it is an error.
    #[arg(long)]
    pub offline: bool,
    /// Directory that `pins vendor` filled: artifacts are taken from there before anything is asked for over the network.
    #[arg(long, value_name = "DIR")]
    pub mirror: Option<PathBuf>,
}

impl AccessArgs {
    /// What sources get.
    pub fn of<'a>(&'a self, cache: &'a Cache, ui: &'a Ui) -> Access<'a> {
        Access { cache, ui, offline: self.offline, mirror: self.mirror.as_deref() }
    }
}

/// `90`, `90s`, `1500ms`, `2m`.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let time = image::config::duration(text).filter(|time| !time.is_zero());
    time.ok_or_else(|| "expected a time above 0 such as 60s, 1500ms or 2m".into())
}

/// How long a guest is given to answer: as it was said, or longer where it is waited for.
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
