//! Profiles of two parts: a kernel with the programs that build for it, and a driver. Each part is a file; together they are the text of
//! one profile.

use crate::common::error::{Doing, Error, Result};
use crate::common::plain;
use std::path::{Path, PathBuf};

/// Which of the two parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Kernel,
    Driver,
}

/// Built-in kernels.
const KERNELS: &[(&str, &str)] = &[
    ("debian-13", include_str!("../../../../image/profiles/kernels/debian-13.toml")),
    ("ubuntu-24.04", include_str!("../../../../image/profiles/kernels/ubuntu-24.04.toml")),
    ("ubuntu-26.04", include_str!("../../../../image/profiles/kernels/ubuntu-26.04.toml")),
];
/// Built-in drivers, by branch.
const DRIVERS: &[(&str, &str)] = &[
    ("550", include_str!("../../../../image/profiles/drivers/550.toml")),
    ("580", include_str!("../../../../image/profiles/drivers/580.toml")),
    ("595", include_str!("../../../../image/profiles/drivers/595.toml")),
    ("615", include_str!("../../../../image/profiles/drivers/615.toml")),
];
/// Pairs that are known to work. The first of each kernel has the kernel's name; the others are called `KERNEL+DRIVER`.
pub const PAIRS: &[(&str, &str)] = &[
    ("debian-13", "580"),
    ("debian-13", "550"),
    ("debian-13", "595"),
    ("debian-13", "615"),
    ("ubuntu-24.04", "580"),
    ("ubuntu-26.04", "595"),
];
/// Pairs that are known not to work, and why.
const BROKEN: &[(&str, &str, &str)] = &[("ubuntu-26.04", "550", "its modules do not compile for kernel 7.0")];
/// The table with the archive of a driver, and that of a kernel.
const DRIVER_ARCHIVE: &str = "[driver_apt]";
const KERNEL_ARCHIVE: &str = "[apt]";

impl Side {
    fn built_in(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::Kernel => KERNELS,
            Self::Driver => DRIVERS,
        }
    }

    fn word(self) -> &'static str {
        match self {
            Self::Kernel => "kernel",
            Self::Driver => "driver",
        }
    }

    /// Keys that only the other part has.
    fn foreign(self) -> &'static [&'static str] {
        match self {
            Self::Kernel => &["driver", "released", "driver_apt", "userspace", "firmware", "modules"],
            Self::Driver => &["arch", "apt", "kernel", "toolroot", "payload", "vm"],
        }
    }
}

/// One part of a profile.
struct Part {
    name: String,
    description: String,
    /// Its text without name and description: keys, then tables.
    keys: String,
    tables: String,
    /// The directory of a file.
    directory: Option<PathBuf>,
}

/// The text of a profile, its name, and the directory of its relative paths.
pub struct Joined {
    /// Its name: the kernel's, if it is the first of [`PAIRS`] with that kernel, else `KERNEL+DRIVER`.
    pub name: String,
    /// Its text.
    pub text: String,
    /// Of the driver's file, else of the kernel's.
    pub directory: PathBuf,
}

/// The names of all pairs in [`PAIRS`].
pub fn names() -> Vec<String> {
    PAIRS.iter().map(|(kernel, driver)| name_of(kernel, driver)).collect()
}

/// The names of the built-in kernels, and of the built-in drivers.
pub fn parts() -> (Vec<&'static str>, Vec<&'static str>) {
    let names = |side: Side| side.built_in().iter().map(|(name, _)| *name).collect();
    (names(Side::Kernel), names(Side::Driver))
}

/// Every built-in kernel with every built-in driver.
pub fn all() -> Vec<(&'static str, &'static str)> {
    let (kernels, drivers) = parts();
    kernels.iter().flat_map(|kernel| drivers.iter().map(move |driver| (*kernel, *driver))).collect()
}

/// What is known of a pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Known {
    /// It drives GPUs, as far as phantoms can tell, in tests/matrix or in the ordinary tests.
    Works,
    /// It does not work, and why.
    Broken(&'static str),
    /// It was not tried.
    Untried,
}

/// What is known of a built-in kernel with a built-in driver.
pub fn known(kernel: &str, driver: &str) -> Known {
    let driver = exact(driver).unwrap_or(driver);
    if PAIRS.contains(&(kernel, driver)) {
        return Known::Works;
    }
    let broken = BROKEN.iter().find(|(of, with, _)| (*of, *with) == (kernel, driver));
    broken.map_or(Known::Untried, |(_, _, why)| Known::Broken(why))
}

/// Refuses the profile of a pair that is known not to work.
///
/// # Errors
/// Why it does not work, and which drivers do.
pub fn check_known(name: &str) -> Result<()> {
    let Some((kernel, driver)) = split(name) else { return Ok(()) };
    let Known::Broken(why) = known(kernel, driver) else { return Ok(()) };
    let works = PAIRS.iter().filter(|(of, _)| *of == kernel).map(|(_, driver)| format!("--driver {driver}"));
    Err(Error::new(format!("driver {driver} does not work with kernel {kernel}: {why}")).hint(format!(
        "choose another driver: {}; `pins list --pairs` has all",
        works.collect::<Vec<_>>().join(" or ")
    )))
}

/// The driver of the first pair with this kernel, else of the first pair of all.
pub fn first_driver(kernel: &str) -> &'static str {
    PAIRS.iter().find(|(of, _)| *of == kernel).unwrap_or(&PAIRS[0]).1
}

/// The name of a pair.
pub fn name_of(kernel: &str, driver: &str) -> String {
    match PAIRS.iter().find(|(of, _)| *of == kernel) {
        Some((_, first)) if *first == driver => kernel.to_owned(),
        _ => format!("{kernel}+{driver}"),
    }
}

/// The two parts that a name of a profile stands for; `None`: it is not the name of a pair.
pub fn split(name: &str) -> Option<(&str, &str)> {
    let first = |kernel| PAIRS.iter().find(|(of, _)| *of == kernel).copied();
    first(name).or_else(|| name.rsplit_once('+'))
}

/// Joins a kernel and a driver. Each is a built-in name or a file; a driver can also be a full version of a built-in branch.
///
/// # Errors
/// There is no such part, or a file is not one.
pub fn join(kernel: &str, driver: &str) -> Result<Joined> {
    let kernel = part(Side::Kernel, kernel)?;
    let mut driver = match exact(driver) {
        Some(branch) => with_version(part(Side::Driver, branch)?, driver),
        None => part(Side::Driver, driver)?,
    };
    // A driver from the archive of the kernel has no archive of its own.
    if table(&driver.tables, DRIVER_ARCHIVE) == table(&kernel.tables, KERNEL_ARCHIVE) {
        driver.tables = without(&driver.tables, DRIVER_ARCHIVE);
    }
    let name = name_of(&kernel.name, &driver.name);
    let description = format!("{} with {}", kernel.description, driver.description);
    let text = format!(
        "name = {name:?}\ndescription = {description:?}\n{}{}\n{}\n{}",
        kernel.keys, driver.keys, kernel.tables, driver.tables
    );
    let directory = driver.directory.or(kernel.directory).unwrap_or_default();
    Ok(Joined { name, text, directory })
}

/// Whether this is the path of a file, and no built-in name.
pub fn is_path(name: &str) -> bool {
    name.contains('/') || Path::new(name).extension().is_some_and(|extension| extension == "toml")
}

/// The built-in branch of a full version such as 580.178.04.
fn exact(driver: &str) -> Option<&'static str> {
    let (branch, rest) = driver.split_once('.')?;
    let is_version = !rest.is_empty() && rest.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    DRIVERS.iter().map(|(name, _)| *name).find(|name| *name == branch && is_version)
}

fn with_version(part: Part, version: &str) -> Part {
    let other = |line: &str| !line.starts_with("driver =");
    let mut keys: String =
        part.keys.lines().filter(|line| other(line)).flat_map(|line| [line, "\n"]).collect();
    keys.push_str(&format!("driver = {version:?}\n"));
    Part { name: version.into(), keys, ..part }
}

fn part(side: Side, name: &str) -> Result<Part> {
    if is_path(name) {
        let path = Path::new(name);
        let text = plain::given(path).doing(side.word(), path)?;
        let directory = path.parent().unwrap_or(Path::new("")).to_owned();
        return Ok(Part { directory: Some(directory), ..parse(side, &text, name)? });
    }
    match side.built_in().iter().find(|(known, _)| *known == name) {
        Some((_, text)) => parse(side, text, name),
        None => Err(unknown(side, name)),
    }
}

fn unknown(side: Side, name: &str) -> Error {
    let names = side.built_in().iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
    let more = match side {
        Side::Kernel => "",
        Side::Driver => ", a full version of one of them (550.163.01)",
    };
    Error::new(format!("no {} named {name:?}", side.word()))
        .hint(format!("use one of: {names}{more}; or pass a file: ./{name}.toml"))
}

/// Splits a part into its keys and its tables, and checks that it is one.
fn parse(side: Side, text: &str, name: &str) -> Result<Part> {
    let word = side.word();
    let table: toml::Table = toml::from_str(text)
        .map_err(|error| Error::new(format!("{word} {name} is not valid TOML")).source(error))?;
    if let Some(foreign) = side.foreign().iter().find(|key| table.contains_key(**key)) {
        return Err(Error::new(format!("{name}: expected the description of a {word}, found {foreign:?}"))
            .hint("pass a file that describes kernel and driver with --profile FILE"));
    }
    let said = |key: &str| {
        let value = table.get(key).and_then(toml::Value::as_str).map(str::to_owned);
        value.ok_or_else(|| {
            Error::new(format!("{word} {name} has no {key}"))
                .hint(format!("compare it with a file in image/profiles/{word}s/"))
        })
    };
    let start = text.lines().take_while(|line| !line.starts_with('[')).map(|line| line.len() + 1).sum();
    let (keys, tables) = text.split_at_checked(start).unwrap_or((text, ""));
    let is_own = |line: &&str| !["name", "description"].iter().any(|key| starts_with_key(line, key));
    Ok(Part {
        name: said("name")?,
        description: said("description")?,
        keys: keys
            .lines()
            .filter(is_own)
            .filter(|line| !line.is_empty())
            .flat_map(|line| [line, "\n"])
            .collect(),
        tables: tables.to_owned(),
        directory: None,
    })
}

fn starts_with_key(line: &str, key: &str) -> bool {
    line.strip_prefix(key).is_some_and(|rest| rest.trim_start().starts_with('='))
}

/// The lines of a table, without its name.
fn table<'a>(tables: &'a str, name: &str) -> Vec<&'a str> {
    let lines = tables.lines().skip_while(|line| *line != name).skip(1);
    lines
        .take_while(|line| !line.starts_with('['))
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .collect()
}

/// All tables but one.
fn without(tables: &str, name: &str) -> String {
    let mut is_it = false;
    let mut rest = String::new();
    for line in tables.lines() {
        is_it = line == name || is_it && !line.starts_with('[');
        if !is_it {
            rest.push_str(line);
            rest.push('\n');
        }
    }
    rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pair_is_a_profile_of_its_name() {
        for (kernel, driver) in PAIRS {
            let joined = join(kernel, driver).unwrap();
            assert_eq!(split(&joined.name), Some((*kernel, *driver)));
            let table: toml::Table = toml::from_str(&joined.text).unwrap();
            assert_eq!(table["name"].as_str(), Some(joined.name.as_str()));
            // An archive of its own only where the kernel has another one.
            let own = [("debian-13", "550"), ("ubuntu-24.04", "580")];
            let is_another = !own.contains(&(*kernel, *driver));
            assert_eq!(table.contains_key("driver_apt"), is_another, "{}", joined.name);
        }
    }

    #[test]
    fn pairs_that_do_not_work_are_refused_with_those_that_do() {
        for (kernel, driver, why) in BROKEN {
            assert_eq!(known(kernel, driver), Known::Broken(why));
            let version = format!("{driver}.1.2");
            for name in [name_of(kernel, driver), name_of(kernel, &version)] {
                let error = check_known(&name).unwrap_err();
                let instead = format!("--driver {}", first_driver(kernel));
                assert!(error.to_string().contains(why) && error.remedy().unwrap().contains(&instead));
            }
        }
        for name in ["debian-13", "debian-13+550", "./mine.toml", "ch-6.12.8-kernel-2-20251211"] {
            check_known(name).unwrap();
        }
        assert_eq!(known("mine", "580"), Known::Untried);
        assert_eq!(known("debian-13", "580.1.2"), Known::Works);
    }

    #[test]
    fn a_full_version_is_of_its_branch() {
        let joined = join("debian-13", "580.178.04").unwrap();
        assert_eq!(joined.name, "debian-13+580.178.04");
        assert!(joined.text.contains("driver = \"580.178.04\"") && !joined.text.contains("580.x"));
        assert_eq!((exact("580.x"), exact("999.1"), exact("580.")), (None, None, None));
    }

    #[test]
    fn parts_that_are_none_are_refused() {
        let refused = |kernel: &str, driver: &str| join(kernel, driver).err().unwrap();
        let error = refused("debian-12", "550");
        assert!(
            error.to_string().contains("no kernel named") && error.remedy().unwrap().contains("ubuntu-24.04")
        );
        let error = refused("debian-13", "999");
        assert!(error.to_string().contains("no driver named") && error.remedy().unwrap().contains("580"));
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.toml");
        std::fs::write(&path, join("debian-13", "550").unwrap().text).unwrap();
        let error = refused(path.to_str().unwrap(), "550");
        assert!(
            error.to_string().contains("found \"driver\"") && error.remedy().unwrap().contains("--profile"),
            "{error}"
        );
        std::fs::write(&path, "driver = \"1.2\"\n").unwrap();
        assert!(refused("debian-13", path.to_str().unwrap()).to_string().contains("has no name"));
    }

    #[test]
    fn a_file_can_be_a_part() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("mine.toml");
        let text = DRIVERS[0].1.replace("name = \"550\"", "name = \"mine\"");
        std::fs::write(&path, text).unwrap();
        let joined = join("debian-13", path.to_str().unwrap()).unwrap();
        assert_eq!((joined.name.as_str(), joined.directory.as_path()), ("debian-13+mine", dir.path()));
    }
}
