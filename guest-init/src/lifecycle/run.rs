//! Runs the container: starts it, waits for it, and restarts it according to the policy.

use super::GuestTrouble;
use super::panic;
use super::reap;
use super::reap::Ended;
use super::stop::StopSwitch;
use crate::container::exec::Entrance;
use crate::container::{self, ContainerError, Spec, Terminal, cgroup};
use crate::status::{self, Board};
use image::config::Restart;
use image::status::{Container, Exit, Outcome, Phase, PhaseOutcome};
use std::time::Duration;

/// Pauses before a restart: the first and the longest. Each pause is twice the previous one.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// Available memory in bytes below which a container start is a finding.
const LITTLE: u64 = 16 << 20;

/// A container whose program has not been started.
pub struct Begun {
    container: container::Begun,
    /// `None`: it writes to the console.
    terminal: Option<Terminal>,
}

/// Begins to set up the container, which the boot need not wait for.
///
/// # Errors
/// Why it cannot be started.
pub fn begin(spec: &Spec) -> Result<Begun, ContainerError> {
    cgroup::create();
    begin_again(spec)
}

fn begin_again(spec: &Spec) -> Result<Begun, ContainerError> {
    cgroup::reset();
    let (terminal, slave) = match Terminal::open(spec.terminal()) {
        Ok((terminal, slave)) => (Some(terminal), Some(slave)),
        Err(error) => {
            log::warn!(
                "the container writes to the console and its output is not kept: cannot open a terminal: {error}"
            );
            (None, None)
        }
    };
    Ok(Begun { container: container::begin(spec, slave)?, terminal })
}

/// Runs the container until it has ended and is not restarted. The phase [`Phase::Exec`] has begun. `started` is called when the program
/// runs for the first time.
///
/// # Errors
/// Why it could not be started.
pub fn run(
    begun: Begun,
    spec: &Spec,
    policy: Restart,
    stop: &StopSwitch,
    entrance: &Entrance,
    board: &Board,
    started: &dyn Fn(),
) -> Result<Exit, ContainerError> {
    warn_of_low_memory(board);
    let (mut begun, mut restarts, mut pause) = (begun, 0, PAUSES.0);
    loop {
        let Ended { exit, asked } = once(begun, spec, restarts, stop, entrance, board, started)?;
        board.update(|status| {
            if let Some(container) = &mut status.container {
                (container.exit, container.oom_kills) = (Some(exit), cgroup::oom_kills());
            }
        });
        if asked || !policy.applies(exit.is_success(), restarts) {
            return Ok(exit);
        }
        restarts += 1;
        log::info!("the container ended: {exit}; restarting it in {} s", pause.as_secs());
        board.output(format!(
            "--- the program ended: {exit}; restarting it for the {} time ---",
            ordinal(restarts)
        ));
        if reap::pause(pause, stop) {
            return Ok(exit);
        }
        pause = PAUSES.1.min(pause * 2);
        begun = begin_again(spec)?;
    }
}

/// Runs the container once, to the last line of output.
fn once(
    Begun { container, terminal }: Begun,
    spec: &Spec,
    restarts: u32,
    stop: &StopSwitch,
    entrance: &Entrance,
    board: &Board,
    started: &dyn Fn(),
) -> Result<Ended, ContainerError> {
    panic::only_if_sound();
    let kills = cgroup::oom_kills();
    let running = container.start(spec.nodes())?;
    entrance.open(running.first, spec);
    let pid = running.first.as_raw().cast_unsigned();
    for warning in &running.warnings {
        board.warn(warning.clone());
    }
    if restarts == 0 {
        board.end(Phase::Exec, PhaseOutcome::Done);
        board.begin(Phase::Running);
        started();
    }
    board.update(|status| {
        status.outcome = Outcome::Ready;
        let kept = status.container.take();
        let started = status::started(pid, spec.command().to_vec(), restarts);
        let last_exit = kept.as_ref().and_then(|kept| kept.exit);
        status.container =
            Some(Container { last_exit, oom_kills: kept.map_or(0, |kept| kept.oom_kills), ..started });
    });
    // Log before following: otherwise this line could appear in the middle of the program's output.
    let followed = terminal.and_then(|terminal| {
        let kept = terminal.follow(board);
        kept.inspect_err(|error| log::error!("cannot read the container's output: {error}")).ok()
    });
    let ended = reap::run(&running, kills, stop);
    entrance.close();
    reap::end_the_rest();
    if let Some(followed) = followed {
        followed.finish();
    }
    Ok(ended)
}

fn warn_of_low_memory(board: &Board) {
    let Some(memory) = crate::kernel::sysinfo::memory().filter(|memory| memory.available < LITTLE) else {
        return;
    };
    let (available, total) = (memory.available >> 20, memory.total >> 20);
    board.report(GuestTrouble::LittleMemory { available, total });
}

/// `1st`, `12th`, `23rd`.
fn ordinal(number: u32) -> String {
    let ending = match (number % 10, number % 100) {
        (1, 0..=10 | 12..) => "st",
        (2, 0..=11 | 13..) => "nd",
        (3, 0..=12 | 14..) => "rd",
        _ => "th",
    };
    format!("{number}{ending}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_said_as_people_say_them() {
        let said = [1, 2, 3, 4, 11, 12, 13, 21, 22, 23, 101, 111, 112, 113].map(ordinal);
        let expected = [
            "1st", "2nd", "3rd", "4th", "11th", "12th", "13th", "21st", "22nd", "23rd", "101st", "111th",
            "112th", "113th",
        ];
        assert_eq!(said, expected);
    }
}
