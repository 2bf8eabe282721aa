//! Arguments that several commands share: where artifacts come from, durations, the default lock.

use crate::artifacts::cache::Cache;
use crate::common::ui::Ui;
use crate::resolve::sources::Access;
use clap::Args;
use std::path::PathBuf;
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
}

impl AccessArgs {
    /// The access that sources receive.
    pub fn of<'a>(&'a self, cache: &'a Cache, ui: &'a Ui) -> Access<'a> {
        Access { cache, ui, offline: self.offline, mirror: self.mirror.as_deref() }
    }
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
