//! Several guests in one argument: a pattern for the paths of their sockets.

use super::target::Target;
use crate::common::clean::clean;
use crate::common::error::{Error, Result};
use crate::common::ui;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::str::FromStr;

/// A target, or a pattern that is expanded to the existing targets at each use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Guests(Target);

impl FromStr for Guests {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let target: Target = text.parse()?;
        if let Some(pattern) = pattern(&target) {
            glob::Pattern::new(pattern).map_err(|error| format!("invalid pattern {pattern:?}: {error}"))?;
        }
        Ok(Self(target))
    }
}

impl Guests {
    /// The target, unless it is a pattern.
    pub fn single(&self) -> Option<&Target> {
        if pattern(&self.0).is_none() { Some(&self.0) } else { None }
    }
}

/// The pattern in a path, if it is one. The name of an existing file is not a pattern.
fn pattern(target: &Target) -> Option<&str> {
    let Target::Unix { path, .. } = target else { return None };
    let text = path.to_str()?;
    (text.contains(['*', '?', '[']) && path.symlink_metadata().is_err()).then_some(text)
}

/// The existing targets.
#[derive(Debug, Default)]
pub struct Expanded {
    /// Without duplicates; those of a pattern sorted by name.
    pub targets: Vec<Target>,
    /// Directories that could not be read, and why.
    pub unreadable: Vec<String>,
    /// Patterns without a match.
    pub unmatched: Vec<String>,
}

impl Expanded {
    /// Returns an error if there is no match. Reports directories that could not be read.
    pub fn required(self) -> Result<Vec<Target>> {
        for place in &self.unreadable {
            ui::say(&format!("warning: {place}"));
        }
        match self.unmatched.first() {
            None => Ok(self.targets),
            Some(pattern) => Err(Error::new(format!("no socket matches {pattern}")).hint(
                "check that a guest is running; quote the pattern for the shell: 'unix:/run/vms/*/vsock.sock'",
            )),
        }
    }
}

/// Expands patterns.
pub fn expand(guests: &[Guests]) -> Expanded {
    let mut found = Expanded::default();
    let add = |target: Target, to: &mut Vec<Target>| {
        if !to.contains(&target) {
            to.push(target);
        }
    };
    for Guests(target) in guests {
        let Some(pattern) = pattern(target) else {
            add(target.clone(), &mut found.targets);
            continue;
        };
        let mut is_matched = false;
        for entry in glob::glob(pattern).into_iter().flatten() {
            match entry {
                Ok(path) if is_socket(&path) => {
                    is_matched = true;
                    add(Target::Unix { path, port: target.port() }, &mut found.targets);
                }
                Ok(_) => {}
                Err(error) => found.unreadable.push(clean(&error.to_string(), 400)),
            }
        }
        if !is_matched {
            found.unmatched.push(target.to_string());
        }
    }
    found
}

fn is_socket(path: &Path) -> bool {
    path.metadata().is_ok_and(|metadata| metadata.file_type().is_socket())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    #[test]
    fn a_pattern_stands_for_the_sockets_there_are() {
        let dir = tempfile::tempdir().unwrap();
        for vm in ["b", "a", "none"] {
            std::fs::create_dir(dir.path().join(vm)).unwrap();
        }
        let path = |vm: &str| dir.path().join(vm).join("v.sock");
        let _sockets = ["b", "a"].map(|vm| UnixListener::bind(path(vm)).unwrap());
        std::fs::write(path("none"), "").unwrap();
        let root = dir.path().display();
        let guests = |text: &str| format!("unix:{root}/{text}").parse::<Guests>().unwrap();
        let found = expand(&[guests("*/v.sock:7"), guests("[a]/v.sock:7"), "vsock:3".parse().unwrap()]);
        let unix = |vm| Target::Unix { path: path(vm), port: 7 };
        assert_eq!(found.targets, [unix("a"), unix("b"), Target::Vsock { cid: 3, port: 1042 }]);
        assert!(guests("*/v.sock").single().is_none() && guests("a/v.sock").single().is_some());
    }

    #[test]
    fn no_match_and_a_bad_pattern_are_errors_that_say_so() {
        let dir = tempfile::tempdir().unwrap();
        let text = format!("unix:{}/*/v.sock", dir.path().display());
        let error = expand(&[text.parse().unwrap()]).required().unwrap_err();
        assert!(error.to_string().contains("no socket matches unix:/"), "{error}");
        assert!("unix:/x/[/v.sock".parse::<Guests>().unwrap_err().contains("pattern"));
    }

    #[test]
    fn a_file_of_that_very_name_is_no_pattern() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("v[1].sock");
        let _socket = UnixListener::bind(&path).unwrap();
        let guests: Guests = format!("unix:{}", path.display()).parse().unwrap();
        assert_eq!(expand(&[guests]).targets, [Target::Unix { path, port: 1042 }]);
    }
}
