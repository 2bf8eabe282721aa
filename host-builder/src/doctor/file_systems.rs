//! The programs that read file systems.

use super::disk::ImageFileSystem;
use super::erofs::lacking;
use crate::common::error::{Error, Result};
use crate::pins::lock::{Lock, Set};
use crate::pins::profile::Profile;
use crate::programs::sandbox::Tools;
use crate::programs::toolroot::Toolroot;
use crate::resolve;
use crate::resolve::sources::Access;
use std::collections::BTreeMap;
use std::path::Path;

/// Where to search for the programs.
#[derive(Clone, Copy)]
pub(crate) struct Programs<'a> {
    /// The lock whose packages contain them.
    pub(crate) lock: &'a Path,
    /// The profile that the lock was resolved from; `None`: the built-in profile that the lock
    /// names.
    pub(crate) profile: Option<&'a str>,
    /// Where the packages are, and whether they may be fetched.
    pub(crate) access: Access<'a>,
}

impl Programs<'_> {
    /// The programs for a file system, in this order: from the lock's packages in the cache or the
    /// mirror, from the machine if they can read this image, from the lock's packages after
    /// fetching them.
    pub(crate) fn of(&self, kind: ImageFileSystem, image: &Path) -> Result<Tools> {
        let mut why = None;
        let lock = Lock::read(self.lock).unwrap_or_else(|error| {
            why = Some(error);
            None
        });
        if let Some(lock) = &lock {
            match self.locked(lock, kind, false) {
                Ok(Some(tools)) if self.lack(&tools, "the lock", kind, image)?.is_none() => return Ok(tools),
                Ok(_) => {}
                Err(error) => why = Some(error),
            }
        }
        let machine = Tools::machine();
        let Some(lack) = self.lack(&machine, "this machine", kind, image)? else { return Ok(machine) };
        let Some(lock) = &lock else {
            let none = || Error::new(format!("{}: no such lock", self.lock.display()));
            return Err(lack.source(why.unwrap_or_else(none)));
        };
        match self.locked(lock, kind, true) {
            Ok(Some(tools)) => match self.lack(&tools, "the lock", kind, image)? {
                None => Ok(tools),
                Some(also) => Err(lack.source(also)),
            },
            Ok(None) => {
                let none = format!("the lock {} has no package {}", self.lock.display(), kind.package());
                Err(lack.source(why.unwrap_or_else(|| Error::new(none))))
            }
            Err(error) => Err(lack.source(error)),
        }
    }

    /// The programs of the lock's packages; `None` if it has none, or they are not available and
    /// must not be fetched.
    fn locked(&self, lock: &Lock, kind: ImageFileSystem, fetch: bool) -> Result<Option<Tools>> {
        let Access { cache, ui, .. } = self.access;
        for set in [Set::Payload, Set::Vm] {
            let packages = lock.set(set);
            if !packages.iter().any(|package| package.name == kind.package()) {
                continue;
            }
            let mut there = true;
            for package in packages {
                there = there && resolve::at_hand(package, self.access)?;
            }
            if !there && fetch {
                self.fetch(lock, set)?;
            }
            if there || fetch {
                let root = Toolroot::of(cache, lock, set, &BTreeMap::new(), ui)?;
                let tools = Tools::at(root.path());
                if tools.has(kind.program()) {
                    return Ok(Some(tools));
                }
            }
        }
        Ok(None)
    }

    fn fetch(&self, lock: &Lock, set: Set) -> Result<()> {
        let (profile, text) = Profile::load(self.profile.unwrap_or(&lock.profile))?;
        lock.check_profile(&profile.name, &text, self.lock)?;
        resolve::fetch(&profile, lock, &[set], self.access)
    }

    /// Why these programs cannot read the image; `None` if they can.
    fn lack(&self, tools: &Tools, of: &str, kind: ImageFileSystem, image: &Path) -> Result<Option<Error>> {
        let (program, package) = (kind.program(), kind.package());
        let with_lock = "or pass the lock that the initrd was built from (its packages contain the programs and are fetched unless --offline is given): --lock FILE";
        if !tools.has(program) {
            return Ok(Some(
                Error::new(format!(
                    "{program} is needed to read this file system, but {of} does not have it"
                ))
                .hint(format!("apt install {package}; {with_lock}")),
            ));
        }
        if kind != ImageFileSystem::Erofs {
            return Ok(None);
        }
        let work = self.access.cache.scratch()?;
        let Some(lacking) = lacking(tools, image, work.path())? else { return Ok(None) };
        let (algorithm, since) = (lacking.algorithm, lacking.since);
        Ok(Some(
            Error::new(format!(
                "this EROFS image is compressed with {algorithm}, and {} of {of} was built without it; {package} has it since {since}",
                lacking.version
            ))
            .hint(format!("install {package} {since} or newer, built with {algorithm}; {with_lock}")),
        ))
    }
}
