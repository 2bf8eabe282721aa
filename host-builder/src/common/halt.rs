//! Ends work of another thread early, when its result is no longer wanted.

use super::error::{Error, Result};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use std::collections::BTreeSet;
use std::process::Child;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Shared by those who work and the one who may end the work.
#[derive(Default)]
pub struct Halt(Mutex<State>);

#[derive(Default)]
struct State {
    halted: bool,
    /// Process groups of the programs that run.
    groups: BTreeSet<Pid>,
}

impl Halt {
    /// Kills the programs of the work with their children. Those that it starts later are killed at once.
    pub fn halt(&self) {
        let mut state = self.state();
        state.halted = true;
        state.groups.iter().for_each(|group| kill(*group));
    }

    /// Adds a program until the result is dropped, which must be after its end and soon. The program must lead a process group
    /// (`Command::process_group(0)`).
    pub fn covers(&self, program: &Child) -> Covered<'_> {
        let group = Pid::from_raw(i32::try_from(program.id()).expect("process ids are small"));
        let mut state = self.state();
        state.groups.insert(group);
        if state.halted {
            kill(group);
        }
        drop(state);
        Covered { halt: self, group }
    }

    /// Fails if the work was ended.
    pub fn check(&self) -> Result<()> {
        if self.state().halted {
            return Err(Error::new("ended early: another step of the same command has failed"));
        }
        Ok(())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn kill(group: Pid) {
    // It has just ended.
    let _ = killpg(group, Signal::SIGKILL);
}

/// A program that a [`Halt`] ends.
pub struct Covered<'a> {
    halt: &'a Halt,
    group: Pid,
}

impl Drop for Covered<'_> {
    fn drop(&mut self) {
        self.halt.state().groups.remove(&self.group);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::{CommandExt, ExitStatusExt};
    use std::process::Command;

    fn sleeping() -> Child {
        Command::new("sleep").arg("1000").process_group(0).spawn().unwrap()
    }

    #[test]
    fn programs_of_the_work_are_killed_now_and_later() {
        let halt = Halt::default();
        halt.check().unwrap();
        let mut ended = Command::new("true").process_group(0).spawn().unwrap();
        let covered = halt.covers(&ended);
        assert!(ended.wait().unwrap().success());
        drop(covered);
        let mut first = sleeping();
        let covered = halt.covers(&first);
        halt.halt();
        assert_eq!(first.wait().unwrap().signal(), Some(9));
        drop(covered);
        assert!(halt.check().is_err());
        let mut second = sleeping();
        let _covered = halt.covers(&second);
        assert_eq!(second.wait().unwrap().signal(), Some(9));
    }
}
