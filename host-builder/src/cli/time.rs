//! Times on the command line.

use std::time::Duration;

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
