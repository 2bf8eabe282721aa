//! Prepares source trees of NVIDIA's open modules in a work directory: from a locked package, or
//! from a given path.

use super::headers::Headers;
use crate::artifacts::cache::Cache;
use crate::artifacts::directory;
use crate::artifacts::tree::Tree;
use crate::artifacts::unpack::{Unpacker, decompressor};
use crate::common::error::{Doing, Error, Result};
use crate::common::plain;
use crate::pins::lock::{Lock, Set};
use crate::pins::profile::{ModuleSource, Modules, Patch};
use regex_lite::Regex;
use std::fs::{self, File};
use std::io::BufReader;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Maximum depth of the modules' own tree in a given source.
const DEPTH: usize = 4;
/// Directories and file suffixes that an earlier build leaves in a tree.
const BUILT_DIRS: [&str; 2] = ["_out", "conftest"];
const BUILT_FILES: [&str; 8] = [".o", ".ko", ".cmd", ".mod", ".mod.c", ".a", ".symvers", "modules.order"];

/// A source tree in a work directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceTree {
    /// The directory to run `make` in.
    pub make: String,
    /// The directory where the modules appear.
    pub modules: String,
}

impl SourceTree {
    /// The archive of NVIDIA's repository, which contains more than the modules' own tree.
    pub fn is_whole(&self) -> bool {
        self.make != self.modules
    }
}

/// Package, archive and tree that a profile names for a driver.
pub fn of_profile<'a>(profile: &'a Modules, driver: &str) -> Result<ModuleSource<'a>> {
    profile.source(driver).ok_or_else(|| {
        Error::new("the profile has no source for the GPU's modules")
            .hint("add [modules] package and subdir, or pass a source: build-modules --source")
    })
}

/// The locked source, with the profile's patches that the headers require.
pub fn locked(
    cache: &Cache,
    lock: &Lock,
    profile: &Modules,
    headers: &Headers,
    work: &Path,
) -> Result<SourceTree> {
    let named = of_profile(profile, &lock.driver)?;
    let source = Tree::of(cache, lock.package(Set::ModuleSource, named.package)?)?;
    let tree = unpack_source(&source, &named, work)?;
    profile.patch.iter().try_for_each(|patch| apply(patch, &tree, &headers.common))?;
    Ok(SourceTree { make: named.subdir.clone(), modules: named.subdir })
}

/// A given source: a directory, or an archive in any supported format. It is copied and never
/// written to.
pub fn given(source: &Path, work: &Path) -> Result<SourceTree> {
    if source.is_dir() {
        copy(source, work)?;
    } else {
        Unpacker::new(work).file(source, "source")?;
    }
    find(work).ok_or_else(|| {
        Error::new(format!(
            "{}: expected the source of NVIDIA's open modules (a directory with Kbuild and Makefile), found none",
            source.display()
        ))
        .hint("pass open-gpu-kernel-modules (unpacked or packed), NVIDIA's .run installer, or its directory kernel-open")
    })
}

/// Copies regular files, except those of an earlier build: its results are for another kernel.
fn copy(source: &Path, work: &Path) -> Result<()> {
    for (name, path) in directory::below(source)? {
        let parents = name.rsplit_once('/').map_or("", |(parents, _)| parents);
        let built = parents.split('/').any(|parent| BUILT_DIRS.contains(&parent))
            || BUILT_FILES.iter().any(|ending| name.ends_with(ending));
        if !built {
            let to = work.join(&name);
            fs::create_dir_all(to.parent().unwrap_or(work)).doing("creating", &to)?;
            fs::copy(&path, &to).doing("copying", &path)?;
        }
    }
    Ok(())
}

/// Finds the tree that is nearest to the root; with several, the first one by name (`kernel-open`
/// sorts before `kernel`, the closed modules).
fn find(work: &Path) -> Option<SourceTree> {
    let entries = walkdir::WalkDir::new(work).max_depth(DEPTH).sort_by_file_name();
    let mut found: Vec<PathBuf> = entries
        .into_iter()
        .filter_map(std::result::Result::ok)
        .filter(|entry| entry.file_name() == "Kbuild" && entry.file_type().is_file())
        .filter_map(|entry| entry.path().parent().map(Path::to_owned))
        .filter(|dir| dir.join("Makefile").is_file())
        .collect();
    found.sort_by_key(|dir| (!dir.ends_with("kernel-open"), dir.components().count(), dir.clone()));
    let modules = found.first()?;
    let text = |path: &Path| path.strip_prefix(work).ok().map(|path| path.to_string_lossy().into_owned());
    // NVIDIA's repository has the system-independent part as source; the installers have it
    // compiled.
    let parent = modules.parent().filter(|parent| {
        parent.starts_with(work)
            && parent.join("src/nvidia").is_dir()
            && parent.join("Makefile").is_file()
            && !modules.join("nvidia/nv-kernel.o_binary").exists()
    });
    Some(SourceTree { make: text(parent.unwrap_or(modules))?, modules: text(modules)? })
}

/// Copies the source tree of a package below `work`, from the archive in the package or from its
/// directory.
pub fn unpack_source(source: &Tree, named: &ModuleSource, work: &Path) -> Result<PathBuf> {
    let subdir = &named.subdir;
    let tree = work.join(subdir);
    let place = if let Some(name) = named.archive {
        let archive = source.path(source.file(name)?);
        let file = File::open(&archive).doing("opening", &archive)?;
        Unpacker::new(work).tar(decompressor(name, BufReader::new(file))?, &archive)?;
        archive.display().to_string()
    } else {
        plain_files(source, subdir, work)?;
        source.origin.clone()
    };
    if tree.join("Kbuild").is_file() {
        return Ok(tree);
    }
    Err(Error::new(format!("{place}: expected a module source tree in {subdir}, with a Kbuild"))
        .hint("the profile's [modules] subdir names another layout"))
}

/// Copies the files below a directory of a package, and checks every byte.
fn plain_files(source: &Tree, subdir: &str, work: &Path) -> Result<()> {
    let prefix = format!("{}/", subdir.trim_end_matches('/'));
    for file in source.files.iter().filter(|file| file.path.starts_with(&prefix)) {
        let to = work.join(&file.path);
        fs::create_dir_all(to.parent().unwrap_or(work)).doing("creating", &to)?;
        fs::write(&to, source.read(file)?).doing("writing", &to)?;
        let mode = if file.executable { 0o755 } else { 0o644 };
        fs::set_permissions(&to, fs::Permissions::from_mode(mode)).doing("setting the mode of", &to)?;
    }
    Ok(())
}

/// Applies one replacement, if the kernel's header requires it.
pub fn apply(patch: &Patch, tree: &Path, headers: &Path) -> Result<()> {
    let header = headers.join(&patch.header);
    let text = plain::read_text(&header)?;
    let matches = Regex::new(&patch.header_matches).map_err(|error| {
        Error::new("the profile's header_matches is not a regular expression").source(error)
    })?;
    if !matches.is_match(&text) {
        return Ok(());
    }
    let file = tree.join(&patch.file);
    let text = plain::read_text(&file)?;
    let found = text.matches(&patch.find).count();
    if found != 1 {
        return Err(Error::new(format!(
            "{}: expected {:?} once, found it {found} times",
            patch.file, patch.find
        ))
        .hint("the driver's source has changed; adapt the profile's [[modules.patch]]"));
    }
    fs::write(&file, text.replace(&patch.find, &patch.replace)).doing("patching", &file)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(files: &[&str]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for file in files {
            let path = dir.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, file).unwrap();
        }
        dir
    }

    #[test]
    fn repository_and_installer_are_built_from_their_trees() {
        let of = |files: &[&str]| {
            let (source, work) = (tree(files), tempfile::tempdir().unwrap());
            given(source.path(), work.path()).map(|tree| (tree.make, tree.modules))
        };
        let names = |make: &str, modules: &str| (make.to_owned(), modules.to_owned());
        let repository =
            ["r/Makefile", "r/src/nvidia/Makefile", "r/kernel-open/Kbuild", "r/kernel-open/Makefile"];
        assert_eq!(of(&repository).unwrap(), names("r", "r/kernel-open"));
        let installer = ["kernel/Kbuild", "kernel/Makefile", "kernel-open/Kbuild", "kernel-open/Makefile"];
        assert_eq!(of(&installer).unwrap(), names("kernel-open", "kernel-open"));
        assert_eq!(of(&["Kbuild", "Makefile"]).unwrap(), names("", ""));
        assert!(of(&["kernel/Makefile"]).unwrap_err().to_string().contains("found none"));
    }

    #[test]
    fn files_of_an_earlier_build_are_not_copied() {
        let source = tree(&[
            "Kbuild",
            "Makefile",
            "a.c",
            "a.o",
            ".a.o.cmd",
            "conftest/headers.h",
            "nv-kernel.o_binary",
        ]);
        let work = tempfile::tempdir().unwrap();
        given(source.path(), work.path()).unwrap();
        let there: Vec<_> = directory::below(work.path()).unwrap().into_keys().collect();
        assert_eq!(there, ["Kbuild", "Makefile", "a.c", "nv-kernel.o_binary"]);
    }

    #[test]
    fn patch_is_applied_once_and_only_if_the_header_matches() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let patch = Patch {
            file: "a.c".into(),
            find: "f(x)".into(),
            replace: "f(x, 0)".into(),
            header: "h.h".into(),
            header_matches: r"f\([^,)]*,[^,)]*\)".into(),
        };
        fs::write(path("a.c"), "y = f(x);").unwrap();
        fs::write(path("h.h"), "int f(int a);").unwrap();
        apply(&patch, dir.path(), dir.path()).unwrap();
        assert_eq!(fs::read_to_string(path("a.c")).unwrap(), "y = f(x);");
        fs::write(path("h.h"), "int f(int a,\n  int b);").unwrap();
        apply(&patch, dir.path(), dir.path()).unwrap();
        assert_eq!(fs::read_to_string(path("a.c")).unwrap(), "y = f(x, 0);");
        assert!(apply(&patch, dir.path(), dir.path()).unwrap_err().to_string().contains("found it 0 times"));
    }
}
