//! CUDA's forward compatibility: newer user-space libraries in an image, for older drivers.
//!
//! They differ from the driver's version on purpose. They are used according to NVIDIA's rule: if they are newer than the
//! driver and the note in their libcuda lists the driver's branch; without a note, if their branch is newer.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use image::elf::{self, Compat};
use image::requirement::branch;

use super::names::version_of;
use crate::confined_fs::{EntryType, RootDir};
use crate::ldcache::compare_names;
use std::os::unix::ffi::OsStrExt;

/// CUDA's directories are below these: `/usr/local/cuda`, `/usr/local/cuda-12.8`, `/opt/cuda`.
const PARENTS: [&str; 2] = ["/usr/local", "/opt"];
/// Subdirectories with the libraries. NGC images create the link `lib` to `lib.real` when they start.
const DEEPER: [&str; 3] = ["", "lib", "lib.real"];
/// Directories of the package cuda-compat in conda.
const CONDA: [&str; 2] = ["/opt/conda/cuda-compat", "/opt/conda/envs"];
/// Maximum number of conda environments searched.
const MAX_ENVIRONMENTS: usize = 32;
/// Maximum size of a libcuda in bytes. Only headers and the note are read.
const MAX_LIBRARY: u64 = 4 << 30;
/// Maximum number of compatibility directories.
const MAX_DIRS: usize = 32;

/// The decision about one directory of compatibility libraries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// The canonical path of the directory.
    pub dir: PathBuf,
    /// Driver version of its libcuda.
    pub version: String,
    /// Whether its libraries are used.
    pub used: bool,
    /// Why.
    pub reason: String,
}

/// Decides about every directory of compatibility libraries, in CUDA's locations and in `searched`, the search path of the
/// container's loader. At most one is used, the newest; none is used if the loader has no cache that could prefer it.
pub fn decide(root: &RootDir, searched: &[PathBuf], driver: &str, has_cache: bool) -> Vec<Decision> {
    let found = directories(root, searched);
    let mut decisions: Vec<Decision> =
        found.into_iter().filter_map(|dir| look_at(root, dir, driver)).collect();
    for decision in decisions.iter_mut().filter(|decision| decision.used && !has_cache) {
        decision.used = false;
        decision.reason = "the image's loader has no cache, which is needed to prefer them".into();
    }
    let version = |d: &Decision| d.version.clone();
    let newest = decisions.iter().filter(|d| d.used).map(version);
    let newest = newest.max_by(|a, b| compare_names(a.as_bytes(), b.as_bytes()));
    let mut taken = false;
    for decision in decisions.iter_mut().filter(|decision| decision.used) {
        if taken || Some(&decision.version) != newest.as_ref() {
            decision.used = false;
            decision.reason = "another directory has newer ones".into();
        } else {
            taken = true;
        }
    }
    decisions
}

/// Returns the directories of compatibility libraries, such as `/usr/local/cuda*/compat*`, each once.
fn directories(root: &RootDir, searched: &[PathBuf]) -> BTreeSet<PathBuf> {
    let named = |parent: &Path, start: &[u8]| -> Vec<PathBuf> {
        let entries = root.list(parent).unwrap_or_default().into_iter();
        let dirs = entries.filter(|entry| matches!(entry.kind, EntryType::Directory | EntryType::Link));
        dirs.filter(|entry| entry.name.as_bytes().starts_with(start))
            .map(|entry| parent.join(entry.name))
            .collect()
    };
    let cuda = PARENTS.iter().flat_map(|parent| named(Path::new(parent), b"cuda"));
    let [conda, environments] = CONDA.map(Path::new);
    let environments = named(environments, b"").into_iter().take(MAX_ENVIRONMENTS);
    let conda = environments.map(|dir| dir.join("cuda-compat")).chain([conda.to_owned()]);
    let dirs = cuda.flat_map(|dir| named(&dir, b"compat")).chain(conda);
    let dirs = dirs.flat_map(|dir| DEEPER.map(|name| dir.join(name)));
    let searched = searched.iter().filter(|dir| is_of_compat(dir)).cloned();
    searched.chain(dirs).filter_map(|dir| root.canonical(&dir).ok()).take(MAX_DIRS).collect()
}

/// Returns whether a component of the path marks compatibility libraries.
fn is_of_compat(dir: &Path) -> bool {
    dir.iter().any(|name| name == "compat" || name == "cuda-compat")
}

fn look_at(root: &RootDir, dir: PathBuf, driver: &str) -> Option<Decision> {
    let names = root.list(&dir).ok()?.into_iter().filter(|entry| entry.kind == EntryType::File);
    let is_cuda = |name: &OsString| name.as_bytes().starts_with(b"libcuda.so.");
    let versions = names.filter(|e| is_cuda(&e.name)).filter_map(|e| Some((version_of(&e.name)?, e.name)));
    let (version, name) = versions.max_by(|a, b| compare_names(a.0.as_bytes(), b.0.as_bytes()))?;
    let note = root.open_file(&dir.join(name), MAX_LIBRARY).ok().map(|file| elf::cuda_compat(&file));
    let (used, reason) = match note {
        _ if !can_be_named(&dir) => (false, "ld.so.conf cannot contain the name of the directory".into()),
        Some(Ok(note)) => rule(note.as_ref(), &version, driver),
        Some(Err(error)) => (false, error.to_string()),
        None => (false, "cannot read libcuda in the directory".into()),
    };
    Some(Decision { dir, version, used, reason })
}

/// Returns whether ld.so.conf of every glibc version can contain the path.
fn can_be_named(dir: &Path) -> bool {
    let fits = |c: char| !c.is_control() && !c.is_whitespace() && !matches!(c, '#' | '=');
    dir.to_str().is_some_and(|text| text.chars().all(fits))
}

/// Applies NVIDIA's rule.
fn rule(note: Option<&Compat>, version: &str, driver: &str) -> (bool, String) {
    let Some(our_branch) = branch(driver) else {
        return (false, format!("{driver} is not a driver version"));
    };
    if compare_names(version.as_bytes(), driver.as_bytes()).is_le() {
        return (false, format!("they are not newer than the driver, {driver}"));
    }
    match note.map(|note| note.drivers.as_slice()) {
        Some(allowed) if allowed.contains(&our_branch) => {
            (true, format!("they support drivers of branch {our_branch}"))
        }
        Some(allowed) if !allowed.is_empty() => {
            let list: Vec<String> = allowed.iter().take(16).map(u32::to_string).collect();
            (false, format!("they support drivers of branches {}, not {our_branch}", list.join(", ")))
        }
        _ if branch(version).is_some_and(|branch| branch > our_branch) => {
            (true, format!("they are of a newer branch than {our_branch}, and list no supported branches"))
        }
        _ => {
            (false, format!("they are of the driver's branch, {our_branch}, and list no supported branches"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nvidias_rule_decides() {
        let note = |drivers: &[u32]| Compat { cuda_version: "13.1".into(), drivers: drivers.to_vec() };
        let used = |note: Option<&Compat>, version, driver| rule(note, version, driver).0;
        let allowing = note(&[535, 550, 570]);
        assert!(used(Some(&allowing), "590.44.01", "550.163.01"));
        assert!(!used(Some(&allowing), "590.44.01", "565.57.01"), "the branch is not allowed");
        assert!(!used(Some(&allowing), "550.54.15", "550.163.01"), "older than the driver");
        assert!(!used(Some(&allowing), "550.163.01", "550.163.01"), "the same");
        assert!(used(Some(&allowing), "550.200.01", "550.163.01"), "newer, of an allowed branch");
        assert!(used(None, "590.44.01", "550.163.01"));
        assert!(!used(None, "550.200.01", "550.163.01"), "majors are compared without a note");
        assert!(used(Some(&note(&[])), "590.44.01", "550.163.01"));
    }
}
