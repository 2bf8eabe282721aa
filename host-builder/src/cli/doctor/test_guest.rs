//! Checks for `doctor` whether KVM runs an ordinary guest, in the same way as `boot`.

use crate::artifacts::cache::Cache;
use crate::cli::arguments::AccessArgs;
use crate::common::error::Result;
use crate::common::ui::Ui;
use crate::doctor::{TestGuest, Tools as Programs};
use crate::pins::lock::{Lock, Set};
use crate::programs::toolroot;
use crate::programs::tools::{HostTools, Toolroot, Tools};
use crate::resolve;
use crate::resolve::sources::Access;
use crate::vm::accel::{Choice, choose};
use crate::vm::qemu::Accel;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::Path;

const KVM: &str = "/dev/kvm";
const QEMU: &str = "qemu-system-x86_64";
/// The file with QEMU's output in the directory that [`choose`] receives.
const LOG: &str = "probe.log";
/// Prefixes of the messages of programs that enter a toolroot. With them, QEMU was not started.
const NOT_ENTERED: [&str; 3] = ["unshare:", "mount:", "chroot:"];

/// Starts the test guest with the QEMU of the lock if it is in the cache or the mirror, else with
/// this machine's QEMU. Fetches nothing.
pub(crate) fn start(lock: &Path, access: &AccessArgs, is_quiet: bool) -> TestGuest {
    // If the device cannot be opened, QEMU is not needed for the result.
    if File::options().read(true).write(true).open(KVM).is_err() {
        return TestGuest::Untried(format!("{KVM} cannot be opened"));
    }
    attempt(lock, access, is_quiet).unwrap_or_else(|error| TestGuest::Untried(error.chain()))
}

fn attempt(lock: &Path, access: &AccessArgs, is_quiet: bool) -> Result<TestGuest> {
    let (cache, ui) = (Cache::open()?, Ui::new(is_quiet));
    let scratch = cache.scratch()?;
    let locked = locked(lock, access.of(&cache, &ui));
    let none =
        || format!("this machine has no {QEMU}, and the QEMU of {} is not in the cache", lock.display());
    Ok(match locked {
        Ok(Some(tools)) => with(&tools, scratch.path()),
        _ if Programs::machine().has(QEMU) => with(&HostTools, scratch.path()),
        Ok(None) => TestGuest::Untried(none()),
        Err(error) => TestGuest::Untried(format!("{}: {}", none(), error.chain())),
    })
}

fn locked(lock: &Path, access: Access) -> Result<Option<Toolroot>> {
    let Some(lock) = Lock::read(lock)? else { return Ok(None) };
    let packages = lock.set(Set::Vm);
    for package in &packages {
        if !resolve::at_hand(package, access)? {
            return Ok(None);
        }
    }
    if packages.is_empty() {
        return Ok(None);
    }
    let root = toolroot::Toolroot::of(access.cache, &lock, Set::Vm, &BTreeMap::new(), access.ui)?;
    Toolroot::at(root.path()).map(Some)
}

fn with(tools: &dyn Tools, scratch: &Path) -> TestGuest {
    let chosen = choose(Choice::Auto, tools, scratch).map(|(accel, _)| accel);
    outcome(chosen, &fs::read_to_string(scratch.join(LOG)).unwrap_or_default())
}

/// The result for KVM, from a choice of `boot` and the output of the program.
fn outcome(chosen: Result<Accel>, said: &str) -> TestGuest {
    let entered = !said.lines().any(|line| NOT_ENTERED.iter().any(|program| line.starts_with(program)));
    match chosen {
        Ok(Accel::Kvm) => TestGuest::Ran,
        Ok(Accel::Tcg) if entered => TestGuest::Failed(said.lines().map(str::to_owned).collect()),
        Ok(Accel::Tcg) => TestGuest::Untried(said.trim().to_owned()),
        Err(error) => TestGuest::Untried(error.chain()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::common::error::Error;

    #[test]
    fn a_qemu_that_was_not_started_says_nothing_about_kvm() {
        assert_eq!(outcome(Ok(Accel::Kvm), "warning: slow"), TestGuest::Ran);
        let failed = outcome(Ok(Accel::Tcg), "qemu-system-x86_64: no such MSR\n");
        assert_eq!(failed, TestGuest::Failed(vec!["qemu-system-x86_64: no such MSR".into()]));
        for said in ["unshare: unshare failed: Operation not permitted", "chroot: failed to run command"] {
            assert_eq!(outcome(Ok(Accel::Tcg), said), TestGuest::Untried(said.into()));
        }
        let missing = Err(Error::new("starting qemu-system-x86_64"));
        assert_eq!(outcome(missing, ""), TestGuest::Untried("starting qemu-system-x86_64".into()));
    }
}
