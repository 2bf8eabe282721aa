//! Compares an unpacked copy with a fresh one.

use crate::common::digest::Hasher;
use crate::common::error::{Doing, Result};
use crate::common::plain;
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// The kind and content of a path.
#[derive(PartialEq, Eq)]
enum What {
    Directory,
    Link(PathBuf),
    File { executable: bool, sha256: String },
    Other,
}

/// The differences between the directories `kept` and `fresh`, one line per path.
pub fn differences(fresh: &Path, kept: &Path) -> Result<Vec<String>> {
    let (fresh, mut kept) = (contents(fresh)?, contents(kept)?);
    let mut found = Vec::new();
    for (path, what) in fresh {
        let difference = match kept.remove(&path) {
            Some(same) if same == what => continue,
            Some(other) => describe(&what, &other),
            None => "is missing".into(),
        };
        found.push(format!("{}: {difference}", path.display()));
    }
    found.extend(kept.into_keys().map(|path| format!("{}: is not in the package", path.display())));
    Ok(found)
}

fn describe(expected: &What, found: &What) -> String {
    match (expected, found) {
        (What::File { sha256: expected, .. }, What::File { sha256: found, .. }) if expected != found => {
            format!("expected sha256 {expected}, found {found}")
        }
        (What::File { .. }, What::File { .. }) => "its executable bit differs from the package".into(),
        (What::Link(expected), What::Link(found)) => {
            format!("expected a link to {}, found one to {}", expected.display(), found.display())
        }
        _ => format!("expected {}, found {}", expected.kind(), found.kind()),
    }
}

impl What {
    fn kind(&self) -> &'static str {
        match self {
            Self::Directory => "a directory",
            Self::Link(_) => "a link",
            Self::File { .. } => "a file",
            Self::Other => "something else",
        }
    }
}

fn contents(directory: &Path) -> Result<BTreeMap<PathBuf, What>> {
    let mut all = BTreeMap::new();
    for entry in walkdir::WalkDir::new(directory).min_depth(1) {
        let entry = entry.map_err(io::Error::from).doing("reading", directory)?;
        let path = entry.path();
        let kind = entry.file_type();
        let what = if kind.is_dir() {
            What::Directory
        } else if kind.is_symlink() {
            What::Link(fs::read_link(path).doing("reading", path)?)
        } else if kind.is_file() {
            let mode = entry.metadata().map_err(io::Error::from).doing("reading", path)?.permissions().mode();
            let mut hasher = Hasher::default();
            let copied = plain::open(path).and_then(|mut file| io::copy(&mut file, &mut hasher));
            copied.doing("reading", path)?;
            What::File { executable: mode & 0o111 != 0, sha256: hasher.hex() }
        } else {
            What::Other
        };
        let relative = path.strip_prefix(directory).unwrap_or(path).to_owned();
        all.insert(relative, what);
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn every_kind_of_difference_is_reported() {
        let dir = tempfile::tempdir().unwrap();
        let sides = [dir.path().join("fresh"), dir.path().join("kept")];
        for side in &sides {
            fs::create_dir_all(side.join("sub")).unwrap();
            for name in ["same", "bytes", "mode", "gone", "kind"] {
                fs::write(side.join(name), "x").unwrap();
            }
            symlink("same", side.join("link")).unwrap();
        }
        let [fresh, kept] = &sides;
        assert_eq!(differences(fresh, kept).unwrap(), Vec::<String>::new());
        fs::write(kept.join("bytes"), "y").unwrap();
        fs::set_permissions(kept.join("mode"), fs::Permissions::from_mode(0o755)).unwrap();
        fs::remove_file(kept.join("gone")).unwrap();
        fs::remove_file(kept.join("kind")).unwrap();
        symlink("/dev/zero", kept.join("kind")).unwrap();
        fs::remove_file(kept.join("link")).unwrap();
        symlink("/etc", kept.join("link")).unwrap();
        nix::unistd::mkfifo(&kept.join("sub/fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        let found = differences(fresh, kept).unwrap();
        assert!(found[0].starts_with("bytes: expected sha256 2d7"), "{found:?}");
        assert_eq!(
            found[1..],
            [
                "gone: is missing",
                "kind: expected a file, found a link",
                "link: expected a link to same, found one to /etc",
                "mode: its executable bit differs from the package",
                "sub/fifo: is not in the package",
            ]
        );
    }
}
