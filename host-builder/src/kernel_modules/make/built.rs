//! Built modules in a directory of the cache, and what is known about each of them.

use crate::artifacts::cache::Cache;
use crate::artifacts::tree::{read_json, write_json};
use crate::common::digest::sha256;
use crate::common::error::{Doing, Result};
use crate::kernel_modules::module::{Module, content, read_module};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Changed with every change of the recorded facts, so that old ones are not reused.
const FACTS: &str = "2";
const ABOUT: &str = "about.json";

/// Built modules, stripped of debug sections.
pub struct Built {
    /// Where the `.ko` files are.
    pub dir: PathBuf,
    /// Their own metadata; paths are file names.
    pub modules: Vec<Module>,
    /// Size and SHA-256 of each file, in the same order.
    pub contents: Vec<(u64, String)>,
    /// Their origin, for the manifest.
    pub origin: String,
}

impl Built {
    /// The modules in a directory of the cache.
    pub fn read(cache: &Cache, dir: PathBuf, origin: String) -> Result<Self> {
        let (_, key) = files(&dir)?;
        let facts = cache.derived("module-facts", &key, |out| {
            let facts = facts(&dir)?;
            write_json(&out.join(ABOUT), &facts)
        })?;
        let facts: Vec<Fact> = read_json(&facts.join(ABOUT))?;
        let (modules, contents) = facts.into_iter().unzip();
        Ok(Self { dir, modules, contents, origin })
    }
}

/// The modules in a directory, and a key that changes with any change of a file.
fn files(dir: &Path) -> Result<(Vec<String>, String)> {
    let (mut names, mut state) = (Vec::new(), vec![FACTS.to_owned(), dir.display().to_string()]);
    for entry in fs::read_dir(dir).doing("reading", dir)? {
        let name = entry.doing("reading", dir)?.file_name().to_string_lossy().into_owned();
        if name.ends_with(".ko") {
            let metadata = fs::metadata(dir.join(&name)).doing("reading", &dir.join(&name))?;
            let time = (metadata.mtime(), metadata.mtime_nsec());
            state.push(format!("{name} {} {time:?}", metadata.len()));
            names.push(name);
        }
    }
    state.sort();
    Ok((names, sha256(state.join("\n").as_bytes())))
}

/// A module's metadata, and the size and SHA-256 of its file.
pub type Fact = (Module, (u64, String));

/// The facts of every module in a directory, sorted by name.
pub fn facts(dir: &Path) -> Result<Vec<Fact>> {
    let mut facts = Vec::new();
    for name in files(dir)?.0 {
        let bytes = content(&dir.join(&name))?;
        facts.push((read_module(&dir.join(&name), &name)?, (bytes.len() as u64, sha256(&bytes))));
    }
    facts.sort_by(|(a, _), (b, _): &Fact| a.name.cmp(&b.name));
    Ok(facts)
}
