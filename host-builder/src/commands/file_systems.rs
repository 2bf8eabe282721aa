//! The programs that read file systems for us.

use crate::cache::Cache;
use crate::doctor::{Disk as Kind, Tools};
use crate::error::{Error, Result};
use crate::lock::{Lock, Set};
use crate::toolroot::Toolroot;
use crate::ui::Ui;
use std::collections::BTreeMap;
use std::path::Path;

/// The programs for a file system: of the lock's packages that are in the cache, else of the machine. Nothing is fetched.
pub(super) fn tools(lock: &Path, kind: Kind, cache: &Cache) -> Result<Tools> {
    let locked = locked(lock, kind, cache);
    let machine = Tools::machine();
    match locked {
        Ok(Some(tools)) => Ok(tools),
        _ if machine.has(kind.program()) => Ok(machine),
        locked => {
            let error = Error::new(format!(
                "{} is needed to read this file system, and is not on this machine",
                kind.program()
            ))
            .hint(format!(
                "apt install {}; or name the lock that the image was built from: --lock FILE",
                kind.package()
            ));
            Err(match locked {
                Err(why) => error.source(why),
                Ok(_) => error,
            })
        }
    }
}

fn locked(lock: &Path, kind: Kind, cache: &Cache) -> Result<Option<Tools>> {
    let Some(lock) = Lock::read(lock)? else { return Ok(None) };
    for set in [Set::Payload, Set::Vm] {
        let packages = lock.set(set);
        let mut there = !packages.is_empty();
        for package in packages {
            there = there && cache.has_blob(&package.sha256, package.size)?;
        }
        if there {
            let root = Toolroot::of(cache, &lock, set, &BTreeMap::new(), &Ui::new(true))?;
            let tools = Tools::at(root.path());
            if tools.has(kind.program()) {
                return Ok(Some(tools));
            }
        }
    }
    Ok(None)
}
