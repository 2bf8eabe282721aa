//! Checks the files of an image against those of the packages that the manifest names, as far as
//! these are available.

use super::difference::Difference;
use crate::artifacts::tree::Tree;
use crate::common::digest::sha256;
use crate::common::error::Result;
use crate::common::files::base_name;
use crate::kernel_modules::make::made_here;
use crate::kernel_modules::make::prebuilt::module_name;
use crate::kernel_modules::module::{content, uncompressed};
use crate::pins::lock::{Artifact, Lock};
use crate::pins::profile::Profile;
use crate::resolve;
use crate::resolve::sources::Access;
use image::manifest::{File, Kind, Manifest};
use std::collections::{BTreeMap, BTreeSet};

/// Which files could be compared, and which could not.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Compared {
    /// Number of files that match their packages.
    pub same: usize,
    /// Number of files without an available package, by the origin in the manifest.
    pub unchecked: BTreeMap<String, usize>,
}

/// Compares each file with the files of the same name in its artifact: the bytes must be equal, or
/// equal after decompression.
pub fn against(manifest: &Manifest, lock: &Lock, access: Access) -> Result<(Vec<Difference>, Compared)> {
    let (mut differences, mut compared) = (Vec::new(), Compared::default());
    let mut known = Packages { lock, access, digests: BTreeMap::new() };
    for file in manifest.files.iter().filter(|file| file.origin != manifest.builder) {
        let Kind::File { sha256, .. } = &file.kind else { continue };
        match known.of(file)? {
            Some(digests) if digests.contains(sha256) => compared.same += 1,
            Some(_) => {
                let what = "its content";
                differences.push(Difference::new(
                    &file.path,
                    what,
                    &format!("a file of {}", file.origin),
                    sha256,
                ));
            }
            None => *compared.unchecked.entry(file.origin.clone()).or_default() += 1,
        }
    }
    Ok((differences, compared))
}

/// The available artifacts.
struct Packages<'a> {
    lock: &'a Lock,
    access: Access<'a>,
    /// The allowed digests by origin and file name.
    digests: BTreeMap<(String, String), Option<BTreeSet<String>>>,
}

impl Packages<'_> {
    /// The allowed digests of a file; `None` if an artifact of its origin is not available.
    fn of(&mut self, file: &File) -> Result<Option<&BTreeSet<String>>> {
        let name = base_name(&file.path);
        let key = (file.origin.clone(), name.to_owned());
        if !self.digests.contains_key(&key) {
            let found = self.look_up(&file.origin, name)?;
            self.digests.insert(key.clone(), found);
        }
        Ok(self.digests[&key].as_ref())
    }

    fn look_up(&self, origin: &str, name: &str) -> Result<Option<BTreeSet<String>>> {
        let mut digests = BTreeSet::new();
        for origin in origin.split(", ") {
            let artifacts: Vec<_> =
                self.lock.artifact.iter().filter(|artifact| artifact.is_origin(origin)).collect();
            if artifacts.is_empty() {
                return Ok(None);
            }
            for artifact in artifacts {
                let Some(files) = self.files(artifact, origin, name)? else { return Ok(None) };
                digests.extend(files);
            }
        }
        Ok(Some(digests))
    }

    /// Digests of an artifact's files of this name, as stored and decompressed.
    fn files(&self, artifact: &Artifact, origin: &str, name: &str) -> Result<Option<Vec<String>>> {
        if artifact.is_source_of(origin) {
            return self.made(name);
        }
        if !resolve::at_hand(artifact, self.access)? {
            return Ok(None);
        }
        let tree = Tree::of(self.access.cache, artifact)?;
        let mut digests = Vec::new();
        // GPU modules are packed under their own names, which DKMS changes.
        let is_it = |path: &str| {
            let both_the_gpus = || module_name(path).is_some() && module_name(name).is_some();
            uncompressed(base_name(path)) == uncompressed(name) || both_the_gpus()
        };
        for file in tree.files.iter().filter(|file| is_it(&file.path)) {
            digests.push(file.sha256.clone());
            if base_name(&file.path) != name {
                digests.push(sha256(&content(&tree.path(file))?));
            }
        }
        Ok(Some(digests))
    }

    /// A module that was compiled on this machine from the lock's source with the lock's compiler.
    fn made(&self, name: &str) -> Result<Option<Vec<String>>> {
        // A profile that is a file cannot be found by its name.
        let Ok((profile, _)) = Profile::load(&self.lock.profile) else { return Ok(None) };
        let Some(built) = made_here(self.access.cache, self.lock, &profile.modules)? else { return Ok(None) };
        let of_name = built.modules.iter().zip(built.contents).filter(|(module, _)| module.path == name);
        Ok(Some(of_name.map(|(_, (_, sha256))| sha256).collect()))
    }
}
