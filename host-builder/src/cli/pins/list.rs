//! `pins list`: one row for each profile, or for each kernel with each driver.

use super::options::List;
use crate::artifacts::cache::Cache;
use crate::common::error::Result;
use crate::common::ui::{megabytes, print, print_as_json};
use crate::pins::branches::{Month, Support};
use crate::pins::lock::Lock;
use crate::pins::profile::{self, Profile, pair, pair::Known};
use crate::resolve::missing;
use image::requirement::Facts;
use serde::Serialize;

#[derive(Debug, Serialize)]
struct Row {
    profile: String,
    kernel: String,
    driver: String,
    support: String,
    cuda: String,
    released: String,
    artifacts: String,
}

/// A kernel with a driver.
#[derive(Debug, Serialize)]
struct Pair {
    profile: String,
    kernel: String,
    driver: String,
    state: String,
}

const PAIR_HEAD: [&str; 4] = ["profile", "kernel", "driver", "state"];
const HEAD: [&str; 7] = [
    "profile",
    "kernel",
    "driver",
    "support by NVIDIA",
    "CUDA version",
    "released",
    "state of its artifacts",
];

/// Runs the command.
pub fn run(args: &List) -> Result<()> {
    if args.pairs {
        let pairs = pairs();
        let cells = |pair: &Pair| [&pair.profile, &pair.kernel, &pair.driver, &pair.state].map(Clone::clone);
        show(&pairs, args.json, || columns(PAIR_HEAD, pairs.iter().map(cells)));
        return Ok(());
    }
    let cache = Cache::open()?;
    let mut locks = Vec::new();
    for path in &args.lock {
        locks.extend(Lock::read(path)?);
    }
    let names = profile::names().into_iter().chain(args.profile.iter().cloned());
    let mut rows = Vec::new();
    for name in names {
        let (profile, text) = Profile::load(&name)?;
        let of_profile: Vec<_> = locks.iter().filter(|lock| lock.profile == profile.name).collect();
        if of_profile.is_empty() {
            rows.push(row(&profile, &text, None, &cache)?);
        }
        for lock in of_profile {
            rows.push(row(&profile, &text, Some(lock), &cache)?);
        }
    }
    show(&rows, args.json, || table(&rows));
    Ok(())
}

fn show(rows: &impl Serialize, json: bool, table: impl FnOnce() -> String) {
    if json {
        print_as_json(rows);
    } else {
        print(&table());
    }
}

/// Every built-in kernel with every built-in driver.
fn pairs() -> Vec<Pair> {
    let row = |(kernel, driver)| Pair {
        profile: pair::name_of(kernel, driver),
        kernel: kernel.into(),
        driver: driver.into(),
        state: match pair::known(kernel, driver) {
            Known::Works => "works".into(),
            Known::Broken(why) => format!("does not work: {why}"),
            Known::Untried => "not tried".into(),
        },
    };
    pair::all().into_iter().map(row).collect()
}

fn row(profile: &Profile, text: &str, lock: Option<&Lock>, cache: &Cache) -> Result<Row> {
    let driver = lock.map_or(&profile.driver, |lock| &lock.driver);
    let intended = profile.kernel.version.as_ref().or(profile.kernel.package.as_ref());
    let release = lock.map(|lock| &lock.kernel_release).or(intended);
    // The day belongs to the profile's driver.
    let released = profile.released.clone().filter(|_| *driver == profile.driver);
    let artifacts = match lock {
        None => "not resolved".to_owned(),
        Some(lock) if lock.check_profile(&profile.name, text, "".as_ref()).is_err() => {
            "locked from another version of the profile".to_owned()
        }
        Some(lock) => state(lock, cache)?,
    };
    Ok(Row {
        profile: profile.name.clone(),
        kernel: release.cloned().unwrap_or_else(|| "-".into()),
        driver: driver.clone(),
        support: Support::of(driver, Month::now()).to_string(),
        cuda: Facts::of_driver(driver, None).cuda_in_words().unwrap_or_else(|| "-".into()),
        released: released.unwrap_or_else(|| "-".into()),
        artifacts,
    })
}

fn state(lock: &Lock, cache: &Cache) -> Result<String> {
    let all: Vec<_> = lock.artifact.iter().collect();
    let absent = missing(&all, cache)?;
    let bytes = absent.iter().map(|artifact| artifact.size).sum();
    Ok(if absent.is_empty() {
        format!("all {} cached", all.len())
    } else {
        format!("{} of {} cached, {} to fetch", all.len() - absent.len(), all.len(), megabytes(bytes))
    })
}

fn table(rows: &[Row]) -> String {
    let cells = |row: &Row| {
        [&row.profile, &row.kernel, &row.driver, &row.support, &row.cuda, &row.released, &row.artifacts]
            .map(Clone::clone)
    };
    columns(HEAD, rows.iter().map(cells))
}

/// Lines with a head, in columns.
fn columns<const N: usize>(head: [&str; N], rows: impl Iterator<Item = [String; N]>) -> String {
    let lines: Vec<[String; N]> = [head.map(str::to_owned)].into_iter().chain(rows).collect();
    let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
    let mut text = String::new();
    for line in &lines {
        let padded = line.iter().enumerate().map(|(at, cell)| format!("{cell:<width$}", width = width(at)));
        text.push_str(padded.collect::<Vec<_>>().join(" | ").trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_say_kernel_driver_cuda_version_day_and_state() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::at(dir.path()).unwrap();
        let rows: Vec<_> = profile::names()
            .iter()
            .map(|name| {
                let (profile, text) = Profile::load(name).unwrap();
                row(&profile, &text, None, &cache).unwrap()
            })
            .collect();
        let text = table(&rows);
        assert!(text.starts_with("profile "), "{text}");
        let line = text.lines().find(|line| line.starts_with("ch-6.12.8")).unwrap();
        let cells: Vec<_> = line.split('|').map(str::trim).collect();
        let name = "ch-6.12.8-kernel-2-20251211";
        assert_eq!(
            cells,
            [
                name,
                name,
                "570.86.16",
                "production ended in February 2026",
                "12.8",
                "2025-12-11",
                "not resolved"
            ]
        );
    }

    #[test]
    fn every_kernel_is_listed_with_every_driver() {
        let (kernels, drivers) = pair::parts();
        let pairs = pairs();
        assert_eq!(pairs.len(), kernels.len() * drivers.len());
        let state = |profile: &str| {
            &pairs.iter().find(|pair| pair.profile == profile).unwrap_or_else(|| panic!("{pairs:?}")).state
        };
        assert_eq!(state("debian-13"), "works");
        assert!(state("ubuntu-26.04+550").starts_with("does not work: "), "{pairs:?}");
    }

    #[test]
    fn another_driver_of_a_lock_has_its_own_cuda_version_and_no_day() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::at(dir.path()).unwrap();
        let (profile, text) = Profile::load("ch-6.12.8-kernel-2-20251211").unwrap();
        let mut lock = Lock::new(&profile.name, &text, "6.12.8".into(), "580.82.07".into());
        lock.add(crate::pins::lock::Set::Kernel, vec![crate::pins::lock::tests::artifact("vmlinux", 'a')]);
        let row = row(&profile, &text, Some(&lock), &cache).unwrap();
        assert_eq!((row.cuda.as_str(), row.released.as_str(), row.kernel.as_str()), ("13.0", "-", "6.12.8"));
        assert!(row.artifacts.starts_with("0 of 1 cached"), "{}", row.artifacts);
    }
}
