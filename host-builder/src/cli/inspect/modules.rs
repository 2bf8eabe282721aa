//! The kernel modules of an image, and why each is there.

use crate::common::files::base_name;
use crate::initramfs::Left;
use crate::kernel_modules::module::{Module, uncompress, uncompressed};
use image::elf::modinfo;
use image::layout;
use image::manifest::{self, Manifest, Purpose};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// One kernel module.
#[derive(Debug, Serialize)]
pub struct View {
    pub name: String,
    pub path: String,
    /// When it is loaded, according to the manifest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub purpose: Option<Purpose>,
    /// Release of the kernel that it was built for.
    pub kernel: Option<String>,
    pub version: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parameters: Option<String>,
    /// Why it is there.
    pub why: String,
}

/// Whether a name is that of a kernel module.
pub fn is_module(name: &str) -> bool {
    uncompressed(name).ends_with(".ko")
}

/// The modinfo of the module files of an image, by path. A file that cannot be read has none.
pub fn read(tree: &BTreeMap<Vec<u8>, Left>) -> BTreeMap<String, Option<Module>> {
    let mut modules = BTreeMap::new();
    for (path, left) in tree {
        let path = String::from_utf8_lossy(path).into_owned();
        if let Some(content) = left.item.content.as_ref().filter(|_| is_module(&path)) {
            let bytes = uncompress(content, Path::new(&path)).ok();
            let info = bytes.and_then(|bytes| modinfo(&bytes).ok());
            modules.insert(path.clone(), info.map(|info| Module::of(&path, &info)));
        }
    }
    modules
}

/// Modules of an image of this tool, in load order.
pub fn planned(manifest: &Manifest, files: &BTreeMap<String, Option<Module>>) -> Vec<View> {
    let by_name: BTreeMap<_, _> =
        files.values().flatten().map(|module| (module.name.as_str(), module)).collect();
    let view = |module: &manifest::Module| View {
        name: module.name.clone(),
        path: module.path.clone(),
        purpose: Some(module.purpose),
        kernel: module.vermagic.split(' ').next().map(str::to_owned),
        version: module.version.clone(),
        parameters: Some(module.parameters.clone()).filter(|text| !text.is_empty()),
        why: why_planned(manifest, module, &by_name),
    };
    manifest.modules.iter().map(view).collect()
}

/// Why the module is there: modules that depend on it directly, else modules with a soft dependency
/// on it, else the profile.
fn why_planned(manifest: &Manifest, module: &manifest::Module, files: &BTreeMap<&str, &Module>) -> String {
    let needed: Vec<_> =
        manifest.modules.iter().filter(|other| other.depends.contains(&module.name)).collect();
    if !needed.is_empty() {
        return format!("needed by {}", list(needed.iter().map(|other| other.name.as_str())));
    }
    let answers = |name: &str| {
        name == module.name
            || files
                .get(module.name.as_str())
                .is_some_and(|file| file.aliases.iter().any(|alias| alias == name))
    };
    let liked = manifest.modules.iter().filter(|other| {
        let file = files.get(other.name.as_str());
        file.is_some_and(|file| file.soft_before.iter().chain(&file.soft_after).any(|name| answers(name)))
    });
    let liked = list(liked.map(|other| other.name.as_str()));
    if !liked.is_empty() {
        return format!("soft dependency of {liked}");
    }
    let entry = manifest.files.iter().find(|file| file.path == module.path);
    format!("requested by the profile: {}", entry.map_or("no reason is stated", |entry| &entry.reason))
}

/// Modules of an image of another tool, by path.
pub fn found(files: &BTreeMap<String, Option<Module>>) -> Vec<View> {
    let mut needed: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    let mut liked: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for module in files.values().flatten() {
        for name in &module.depends {
            needed.entry(name).or_default().insert(&module.name);
        }
        for name in module.soft_before.iter().chain(&module.soft_after) {
            liked.entry(name).or_default().insert(&module.name);
        }
    }
    let of = |map: &BTreeMap<&str, BTreeSet<&str>>, names: &[&str]| {
        let all: BTreeSet<_> = names.iter().filter_map(|name| map.get(name)).flatten().copied().collect();
        list(all.into_iter())
    };
    let view = |(path, module): (&String, &Option<Module>)| {
        let name = uncompressed(base_name(path)).trim_end_matches(".ko").replace('-', "_");
        let aliases = module.iter().flat_map(|module| module.aliases.iter().map(String::as_str));
        let names: Vec<_> = std::iter::once(name.as_str()).chain(aliases).collect();
        let why = match (module, of(&needed, &names), of(&liked, &names)) {
            (None, ..) => "it cannot be read".to_owned(),
            (_, by, _) if !by.is_empty() => format!("needed by {by}"),
            (_, _, by) if !by.is_empty() => format!("soft dependency of {by}"),
            _ => "nothing in the image needs it: it was requested".to_owned(),
        };
        View {
            path: path.clone(),
            purpose: None,
            kernel: module.as_ref().map(|module| module.release().to_owned()),
            version: module.as_ref().and_then(|module| module.version.clone()),
            parameters: None,
            why,
            name,
        }
    };
    files.iter().map(view).collect()
}

fn list<'a>(names: impl Iterator<Item = &'a str>) -> String {
    names.collect::<Vec<_>>().join(", ")
}

/// Releases that have a directory of modules.
pub fn releases(tree: &BTreeMap<Vec<u8>, Left>) -> Vec<String> {
    let mut releases = BTreeSet::new();
    for path in tree.keys() {
        let path = String::from_utf8_lossy(path);
        let path = path.strip_prefix("/usr").unwrap_or(&path);
        let below = path.strip_prefix(layout::MODULES_DIR).and_then(|rest| rest.strip_prefix('/'));
        if let Some((release, _)) = below.and_then(|rest| rest.split_once('/')) {
            releases.insert(release.to_owned());
        }
    }
    releases.into_iter().collect()
}
