//! Driver branches: which kind, and until when NVIDIA supports them.

use image::requirement::branch;
use serde::{Deserialize, Deserializer, de};
use std::fmt;
use std::sync::LazyLock;
use std::time::{SystemTime, UNIX_EPOCH};

static TABLE: LazyLock<Table> =
    LazyLock::new(|| toml::from_str(include_str!("branches.toml")).expect("a test parses it"));

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    /// When the list was compared with NVIDIA's.
    published: Month,
    branch: Vec<Branch>,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
struct Branch {
    number: u32,
    kind: Kind,
    ends: Option<Month>,
}

/// What NVIDIA promises for a branch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
enum Kind {
    #[serde(rename = "long-term support")]
    LongTerm,
    #[serde(rename = "production")]
    Production,
    #[serde(rename = "feature")]
    Feature,
}

/// A month of a year.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Month {
    year: u64,
    /// 1 to 12.
    month: u64,
}

/// The support of one driver.
#[derive(Debug, Clone, Copy)]
pub enum Support {
    /// Its branch is in the list, and its support has not ended.
    Until(BranchKind, Option<Month>),
    /// Its support has ended.
    Ended(BranchKind, Month),
    /// Its branch is not in the list, which has newer ones.
    Dropped,
    /// Its branch is newer than the list.
    Unknown,
}

/// The kind of a branch in words.
pub type BranchKind = &'static str;

impl Support {
    /// The support of a driver in this month.
    pub fn of(driver: &str, now: Month) -> Self {
        let number = branch(driver).unwrap_or_default();
        let newest = TABLE.branch.iter().map(|branch| branch.number).max().unwrap_or_default();
        match TABLE.branch.iter().find(|branch| branch.number == number) {
            Some(Branch { kind, ends: Some(ends), .. }) if *ends < now => Self::Ended(kind.words(), *ends),
            Some(Branch { kind, ends, .. }) => Self::Until(kind.words(), *ends),
            None if number < newest => Self::Dropped,
            None => Self::Unknown,
        }
    }

    /// The warning about a driver that is not supported; `None`: it is, or nothing is known.
    pub fn warning(self, driver: &str, now: Month) -> Option<String> {
        if matches!(self, Self::Until(..) | Self::Unknown) {
            return None;
        }
        let instead = |branch: &&Branch| branch.ends.is_some_and(|ends| ends >= now);
        let instead: Vec<_> = TABLE.branch.iter().filter(instead).map(Branch::to_string).collect();
        Some(format!(
            "NVIDIA does not support driver {driver} any more ({self}; as of {}); it supports {}",
            TABLE.published,
            instead.join(", ")
        ))
    }
}

impl fmt::Display for Support {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Until(kind, Some(ends)) => write!(out, "{kind} until {ends}"),
            Self::Until(kind, None) => write!(out, "{kind} branch"),
            Self::Ended(kind, ends) => write!(out, "{kind} ended in {ends}"),
            Self::Dropped => out.write_str("not in its list"),
            Self::Unknown => out.write_str("unknown"),
        }
    }
}

impl fmt::Display for Branch {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} ({})", self.number, Support::Until(self.kind.words(), self.ends))
    }
}

impl Kind {
    fn words(self) -> BranchKind {
        match self {
            Self::LongTerm => "long-term support",
            Self::Production => "production",
            Self::Feature => "feature",
        }
    }
}

impl Month {
    /// This month, in UTC.
    pub fn now() -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self::of_day(since.as_secs() / (24 * 60 * 60))
    }

    /// The month of a day since 1970.
    fn of_day(mut day: u64) -> Self {
        let mut year = 1970;
        let leap =
            |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
        loop {
            let days = if leap(year) { 366 } else { 365 };
            if day < days {
                break;
            }
            day -= days;
            year += 1;
        }
        let february = if leap(year) { 29 } else { 28 };
        let mut month = 1;
        for days in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30] {
            if day < days {
                break;
            }
            day -= days;
            month += 1;
        }
        Self { year, month }
    }
}

impl fmt::Display for Month {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = usize::try_from(self.month - 1).ok().and_then(|at| MONTHS.get(at));
        write!(out, "{} {}", name.unwrap_or(&"?"), self.year)
    }
}

impl<'de> Deserialize<'de> for Month {
    /// `YYYY-MM`.
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        let text = String::deserialize(input)?;
        let parsed = text.split_once('-').and_then(|(year, month)| {
            let month = month.parse().ok().filter(|month| (1..=12).contains(month))?;
            Some(Self { year: year.parse().ok()?, month })
        });
        parsed.ok_or_else(|| de::Error::custom(format!("{text:?}: expected YYYY-MM")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Month = Month { year: 2026, month: 11 };

    #[test]
    fn a_day_is_in_its_month() {
        for (day, year, month) in [
            (0, 1970, 1),
            (30, 1970, 1),
            (31, 1970, 2),
            (364, 1970, 12),
            (365, 1971, 1),
            (11_016, 2000, 2),
            (11_017, 2000, 3),
            (20_787, 2026, 11),
        ] {
            assert_eq!(Month::of_day(day), Month { year, month }, "{day}");
        }
    }

    #[test]
    fn each_driver_has_its_support() {
        let words = |driver| Support::of(driver, NOW).to_string();
        assert_eq!(words("580.178.04"), "long-term support until June 2028");
        assert_eq!(words("580.x"), "long-term support until June 2028");
        assert_eq!(words("595.91.07"), "production until March 2027");
        assert_eq!(words("615.71.09"), "feature branch");
        assert_eq!(words("535.1"), "long-term support ended in June 2026");
        assert_eq!(words("550.163.01"), "not in its list");
        assert_eq!(words("999.1"), "unknown");
        // The month of the end belongs to the support.
        assert!(matches!(Support::of("595.1", Month { year: 2027, month: 3 }), Support::Until(..)));
        assert!(matches!(Support::of("595.1", Month { year: 2027, month: 4 }), Support::Ended(..)));
    }

    #[test]
    fn a_driver_without_support_has_a_warning_that_names_others() {
        let warning = |driver| Support::of(driver, NOW).warning(driver, NOW);
        let text = warning("550.163.01").unwrap();
        assert!(
            text.contains("550.163.01") && text.contains("580 (long-term support until June 2028)"),
            "{text}"
        );
        assert!(text.contains("November 2026") && !text.contains("535 ("), "{text}");
        assert_eq!((warning("580.1"), warning("615.1"), warning("999.1")), (None, None, None));
    }
}
