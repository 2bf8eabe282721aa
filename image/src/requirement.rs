//! What an image requires of the driver: the `NVIDIA_REQUIRE_*` variables, as NVIDIA's container tools read them.
//!
//! A value is a list of alternatives separated by blanks; an alternative is a list of conditions separated by commas,
//! all of which must hold: `cuda>=12.4 brand=tesla,driver>=535,driver<536`.

use std::cmp::Ordering;
use std::collections::BTreeMap;

/// Prefix of the variables that are requirements. All of them must be met.
pub const PREFIX: &str = "NVIDIA_REQUIRE_";
/// If this variable is true, requirements are ignored.
pub const DISABLE: &str = "NVIDIA_DISABLE_REQUIRE";
/// Images older than `NVIDIA_REQUIRE_CUDA` state their CUDA version in this variable.
const LEGACY: &str = "CUDA_VERSION";
/// Maximum length of one value in bytes. Real ones have about 2000.
const MAX_VALUE: usize = 64 * 1024;

/// The CUDA version of each driver branch (NVIDIA's CUDA toolkit release notes, table of driver versions).
const CUDA_OF_BRANCH: [(u32, [u32; 2]); 30] = [
    (384, [9, 0]),
    (390, [9, 1]),
    (396, [9, 2]),
    (410, [10, 0]),
    (418, [10, 1]),
    (440, [10, 2]),
    (450, [11, 0]),
    (455, [11, 1]),
    (460, [11, 2]),
    (465, [11, 3]),
    (470, [11, 4]),
    (495, [11, 5]),
    (510, [11, 6]),
    (515, [11, 7]),
    (520, [11, 8]),
    (525, [12, 0]),
    (530, [12, 1]),
    (535, [12, 2]),
    (545, [12, 3]),
    (550, [12, 4]),
    (555, [12, 5]),
    (560, [12, 6]),
    (565, [12, 7]),
    (570, [12, 8]),
    (575, [12, 9]),
    (580, [13, 0]),
    (590, [13, 1]),
    (595, [13, 2]),
    (610, [13, 3]),
    (615, [13, 4]),
];

/// What is known about the driver.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facts {
    /// Version of the driver: `550.163.01`.
    pub driver: String,
    /// CUDA version that the driver supports.
    pub cuda: Option<[u32; 2]>,
    /// Whether it may support a newer one: its branch is newer than the table.
    pub or_newer: bool,
}

impl Facts {
    /// Returns what is known about a driver. Its CUDA version comes from its own files
    /// ([`crate::manifest::Driver::cuda`]), or else from its branch.
    pub fn of_driver(version: &str, told: Option<&str>) -> Self {
        let driver = version.to_owned();
        if let Some([major, minor, _]) = told.and_then(numbers) {
            return Self { driver, cuda: Some([major, minor]), or_newer: false };
        }
        let newest = CUDA_OF_BRANCH.last().map(|(newest, _)| *newest);
        let or_newer = branch(version).zip(newest).is_some_and(|(branch, newest)| branch > newest);
        Self { driver, cuda: cuda_of_branch(version), or_newer }
    }

    /// The CUDA version as text: `13.0`, `13.4 or newer`. `None`: unknown.
    pub fn cuda_in_words(&self) -> Option<String> {
        let [major, minor] = self.cuda?;
        Some(format!("{major}.{minor}{}", if self.or_newer { " or newer" } else { "" }))
    }
}

/// For a branch newer than the table, returns the newest known version: the driver supports at least that.
fn cuda_of_branch(version: &str) -> Option<[u32; 2]> {
    let branch = branch(version)?;
    CUDA_OF_BRANCH.iter().rev().find(|(known, _)| *known <= branch).map(|(_, cuda)| *cuda)
}

/// The branch of a driver version: 550 of `550.163.01`.
pub fn branch(version: &str) -> Option<u32> {
    version.split('.').next()?.parse().ok()
}

/// Whether a requirement is met.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// An alternative is met.
    Met,
    /// No alternative is known to be met, and some depend on facts that are unknown here, such as the GPU's brand.
    Unknown,
    /// Every alternative fails.
    Unmet,
}

/// A requirement with a syntax error.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "invalid condition {condition:?}: expected cuda, driver, arch or brand, one of = != < <= > >=, and a value"
)]
pub struct Malformed {
    /// The condition.
    pub condition: String,
}

/// The requirements in an environment: name of the variable, value. Empty when they are disabled.
pub fn requirements(env: &BTreeMap<String, String>) -> Vec<(String, String)> {
    let disabled = env.get(DISABLE).map(String::as_str);
    if disabled.is_some_and(|value| matches!(value, "1" | "t" | "T" | "true" | "TRUE" | "True")) {
        return Vec::new();
    }
    let named = env.iter().filter(|(name, value)| {
        // NVIDIA_REQUIRE_JETPACK is about the system of a board, not about a driver.
        name.strip_prefix(PREFIX).is_some_and(|rest| !rest.starts_with("JETPACK")) && !value.is_empty()
    });
    let mut list: Vec<(String, String)> = named.map(|(name, value)| (name.clone(), value.clone())).collect();
    let asked = list.iter().any(|(name, _)| name == "NVIDIA_REQUIRE_CUDA");
    if let (false, Some(version)) = (asked, env.get(LEGACY)) {
        let numbers: Vec<_> = version.split('.').take(2).collect();
        if numbers.iter().all(|number| number.parse::<u32>().is_ok()) {
            list.push((LEGACY.into(), format!("cuda>={}", numbers.join("."))));
        }
    }
    list
}

/// Evaluates one requirement.
///
/// # Errors
/// [`Malformed`] for a condition that cannot be parsed, unless an alternative is met or undecided.
pub fn evaluate(requirement: &str, facts: &Facts) -> Result<Verdict, Malformed> {
    let cut = requirement.get(..MAX_VALUE).unwrap_or(requirement);
    let mut verdict = Verdict::Unmet;
    let mut malformed = None;
    let mut alternatives = cut.split(' ').filter(|text| !text.is_empty()).peekable();
    if alternatives.peek().is_none() {
        return Ok(Verdict::Met);
    }
    for alternative in alternatives {
        match all(alternative, facts) {
            Ok(Verdict::Met) => return Ok(Verdict::Met),
            Ok(Verdict::Unknown) => verdict = Verdict::Unknown,
            Ok(Verdict::Unmet) => {}
            Err(error) => malformed = malformed.or(Some(error)),
        }
    }
    match malformed {
        Some(error) if verdict == Verdict::Unmet => Err(error),
        _ => Ok(verdict),
    }
}

/// Checks whether all conditions of one alternative are met.
fn all(alternative: &str, facts: &Facts) -> Result<Verdict, Malformed> {
    let mut verdict = Verdict::Met;
    for text in alternative.split(',').filter(|text| !text.is_empty()) {
        match condition(text, facts)? {
            Verdict::Unmet => return Ok(Verdict::Unmet),
            Verdict::Unknown => verdict = Verdict::Unknown,
            Verdict::Met => {}
        }
    }
    Ok(verdict)
}

fn condition(text: &str, facts: &Facts) -> Result<Verdict, Malformed> {
    let malformed = || Malformed { condition: text.into() };
    let at = text.find(['=', '!', '<', '>']).ok_or_else(malformed)?;
    let (name, rest) = text.split_at(at);
    let operator = ["<=", ">=", "!=", "=", "<", ">"].into_iter().find(|sign| rest.starts_with(sign));
    let operator = operator.ok_or_else(malformed)?;
    let value = rest[operator.len()..].trim();
    if value.is_empty() {
        return Err(malformed());
    }
    let found = match name.trim() {
        "cuda" => facts.cuda.map(|[major, minor]| [major, minor, 0]),
        "driver" => numbers(&facts.driver),
        "arch" | "brand" => return Ok(Verdict::Unknown),
        _ => return Err(malformed()),
    };
    let wanted = numbers(value).ok_or_else(malformed)?;
    let Some(found) = found else { return Ok(Verdict::Unknown) };
    let order = found.cmp(&wanted);
    let decided = match order {
        Ordering::Greater => matches!(operator, ">=" | ">"),
        Ordering::Equal => operator == ">=",
        Ordering::Less => false,
    };
    if name.trim() == "cuda" && facts.or_newer && !decided {
        return Ok(Verdict::Unknown);
    }
    let holds = match operator {
        "=" => order == Ordering::Equal,
        "!=" => order != Ordering::Equal,
        "<" => order == Ordering::Less,
        "<=" => order != Ordering::Greater,
        ">" => order == Ordering::Greater,
        _ => order != Ordering::Less,
    };
    Ok(if holds { Verdict::Met } else { Verdict::Unmet })
}

/// Parses up to three numbers; missing ones are 0.
fn numbers(text: &str) -> Option<[u32; 3]> {
    let mut numbers = [0; 3];
    for (index, part) in text.split('.').enumerate() {
        *numbers.get_mut(index)? = part.parse().ok()?;
    }
    Some(numbers)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(requirement: &str, driver: &str) -> Verdict {
        evaluate(requirement, &Facts::of_driver(driver, None)).unwrap()
    }

    #[test]
    fn cuda_follows_from_the_branch() {
        let words = |version| Facts::of_driver(version, None).cuda_in_words();
        assert_eq!(words("550.163.01").as_deref(), Some("12.4"));
        assert_eq!(words("551.23").as_deref(), Some("12.4"));
        assert_eq!(words("999.1").as_deref(), Some("13.4 or newer"));
        assert_eq!(words("304.88"), None);
        assert!(CUDA_OF_BRANCH.is_sorted());
    }

    /// The version in the driver's own files takes precedence over the table of branches.
    #[test]
    fn the_drivers_own_word_is_no_guess() {
        let verdict = |text, told| evaluate(text, &Facts::of_driver("999.1", told)).unwrap();
        assert_eq!(verdict("cuda>=14.2", Some("14.2")), Verdict::Met);
        assert_eq!(verdict("cuda>=14.3", Some("14.2")), Verdict::Unmet);
        assert_eq!(verdict("cuda>=14.3", None), Verdict::Unknown);
        assert_eq!(verdict("cuda>=14.3", Some("x")), Verdict::Unknown);
        assert_eq!(Facts::of_driver("304.88", Some("14.2")).cuda_in_words().as_deref(), Some("14.2"));
    }

    /// The shape of the value in NVIDIA's own CUDA images.
    const REAL: &str = "cuda>=12.4 brand=tesla,driver>=470,driver<471 brand=unknown,driver>=535,driver<536";

    #[test]
    fn one_alternative_is_enough() {
        assert_eq!(verdict(REAL, "550.163.01"), Verdict::Met);
        assert_eq!(verdict(REAL, "570.86.16"), Verdict::Met);
        assert_eq!(verdict(REAL, "535.54.03"), Verdict::Unknown, "the brand is not known");
        assert_eq!(verdict(REAL, "525.60.13"), Verdict::Unmet);
        assert_eq!(verdict("cuda>=13.0", "550.163.01"), Verdict::Unmet);
        assert_eq!(verdict("", "550.163.01"), Verdict::Met);
        assert_eq!(verdict("driver!=550.163.01", "550.163.01"), Verdict::Unmet);
        assert_eq!(verdict("driver=550.163.1,cuda<=12.4,cuda>12.3", "550.163.01"), Verdict::Met);
        // A branch newer than the table: only a lower bound is known.
        assert_eq!(verdict("cuda>=13.4", "620.43.02"), Verdict::Met);
        assert_eq!(verdict("cuda>=13.5", "620.43.02"), Verdict::Unknown);
        assert_eq!(verdict("cuda>13.4", "620.43.02"), Verdict::Unknown);
        assert_eq!(verdict("cuda<=13.4", "620.43.02"), Verdict::Unknown);
        assert_eq!(verdict("cuda>=13.3", "595.10"), Verdict::Unmet);
    }

    #[test]
    fn what_cannot_be_read_is_an_error_unless_something_else_holds() {
        let facts = Facts::of_driver("550.163.01", None);
        for text in ["cuda", "cuda>=", "cuda~12", "speed>=3", "cuda>=twelve", "driver=1.2.3.4"] {
            assert!(evaluate(text, &facts).is_err(), "{text}");
        }
        assert_eq!(evaluate("speed>=3 cuda>=12.0", &facts), Ok(Verdict::Met));
    }

    #[test]
    fn the_environment_says_what_is_required() {
        let list = |env: &[(&'static str, &'static str)]| {
            let env = env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
            let list = requirements(&env);
            list.into_iter().map(|(name, value)| format!("{name} {value}")).collect::<Vec<_>>()
        };
        let cuda = ("NVIDIA_REQUIRE_CUDA", "cuda>=13.0");
        assert_eq!(list(&[cuda, ("NVIDIA_REQUIRE_X", "driver>=1")]).len(), 2);
        assert_eq!(list(&[cuda, ("CUDA_VERSION", "13.0.1")]), ["NVIDIA_REQUIRE_CUDA cuda>=13.0"]);
        assert_eq!(list(&[("CUDA_VERSION", "11.4.2")]), ["CUDA_VERSION cuda>=11.4"]);
        assert!(list(&[cuda, ("NVIDIA_DISABLE_REQUIRE", "true")]).is_empty());
        assert_eq!(list(&[cuda, ("NVIDIA_DISABLE_REQUIRE", "0")]).len(), 1);
        assert!(
            list(&[("NVIDIA_REQUIRE_JETPACK_HOST_MOUNTS", "base-only"), ("CUDA_VERSION", "x")]).is_empty()
        );
    }
}
