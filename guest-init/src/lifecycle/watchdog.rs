//! The watchdog: each phase of a boot has a deadline, whatever it waits for. It ends a boot that misses one, while the thread that
//! hangs is left behind.

use super::shutdown::{self, Ending};
use super::{GuestTrouble, StopSwitch, panic};
use crate::kernel::sysinfo::uptime_ms;
use crate::status::{Board, helper};
use image::config::Config;
use image::status::{Outcome, Phase, PhaseTime, Status};
use std::fs;
use std::io;
use std::time::Duration;

/// How often the phases are checked.
const LOOK: Duration = Duration::from_millis(500);
/// Additional time for a payload disk that is read whole, because the kernel has no dm-verity.
const WHOLE_DISK: Duration = Duration::from_mins(2);
/// Additional time for the start of the program, which has a deadline of its own.
const STAGE: Duration = Duration::from_secs(90);

/// Starts the watchdog, which ends the boot with this configuration.
///
/// # Errors
/// If the thread cannot be started.
pub fn start(config: &Config, stop: &StopSwitch, board: &Board) -> io::Result<()> {
    let (config, stop, shared) = (config.clone(), stop.clone(), board.clone());
    let watch = move || loop {
        std::thread::sleep(LOOK);
        let late = shared.look(|status| late(status, &config, uptime_ms()));
        if let Some((phase, limit)) = late {
            panic::begin_to_end();
            shared.fatal(GuestTrouble::PhaseTimedOut { phase, limit, threads: waiting_threads() });
            shutdown::end(Ending::Failed(None), &stop, &shared, &config)
        }
        if shared.look(|status| status.phase >= Phase::Running || status.outcome == Outcome::Failed) {
            return;
        }
    };
    helper::start("watchdog", board, watch)
}

/// Returns the phase that has run for too long, and its deadline. Between two phases, it is the last one.
fn late(status: &Status, config: &Config, now: u64) -> Option<(Phase, Duration)> {
    // A boot that has failed lingers, or holds.
    if status.outcome == Outcome::Failed {
        return None;
    }
    let is_late = |since: u64, limit: Duration| u128::from(now.saturating_sub(since)) > limit.as_millis();
    let ends = status.phases.iter().map(|time| time.end_ms);
    if let Some(last) = ends.collect::<Option<Vec<_>>>().and_then(|ends| ends.into_iter().max()) {
        let limit = config.step_timeout;
        return (status.phase < Phase::Running && is_late(last, limit)).then_some((status.phase, limit));
    }
    let running = status.phases.iter().filter(|time| time.end_ms.is_none());
    running.map(|time| (time, limit(time.phase, status, config))).find_map(|(time, limit)| {
        let PhaseTime { phase, start_ms, .. } = time;
        limit.filter(|limit| is_late(*start_ms, *limit)).map(|limit| (*phase, limit))
    })
}

/// Returns the deadline of a phase: its own configured waits, and one for the calls between them.
fn limit(phase: Phase, status: &Status, config: &Config) -> Option<Duration> {
    let (step, disk) = (config.step_timeout, config.disk_timeout);
    let number = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
    Some(match phase {
        Phase::Start | Phase::Cache => step,
        Phase::Modules => step * 2,
        Phase::Config | Phase::Root | Phase::Inject => step + disk,
        Phase::Payload => step + disk + WHOLE_DISK,
        Phase::Gpu => {
            let adapters = config.gpu_timeout.saturating_mul(number(status.gpus.len().max(1)));
            (step * 2 + disk + WHOLE_DISK).saturating_add(adapters)
        }
        Phase::Exec => step + STAGE,
        Phase::Running | Phase::Stopping | Phase::Exited => return None,
    })
}

/// Describes the threads of this process that wait in the kernel and cannot be interrupted.
fn waiting_threads() -> Vec<String> {
    let tasks = fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let describe = |path: std::path::PathBuf| {
        let read = |name: &str| fs::read_to_string(path.join(name)).unwrap_or_default();
        let stat = read("stat");
        let state = stat.rsplit_once(") ")?.1.chars().next()?;
        (state == 'D').then(|| format!("thread {} waits in {}", read("comm").trim(), read("wchan").trim()))
    };
    tasks.filter_map(|task| describe(task.path())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::status::PhaseOutcome;

    fn status(phase: Phase, start_ms: u64, end_ms: Option<u64>) -> Status {
        let outcome = if end_ms.is_some() { PhaseOutcome::Done } else { PhaseOutcome::Running };
        let time = PhaseTime { phase, start_ms, end_ms, outcome, progress: None };
        Status { phase, phases: vec![time], ..Status::default() }
    }

    #[test]
    fn a_phase_is_late_after_its_own_waits() {
        let config = Config {
            step_timeout: Duration::from_secs(5),
            disk_timeout: Duration::from_secs(10),
            ..Config::default()
        };
        let late = |status: &Status, now| late(status, &config, now).map(|(phase, _)| phase);
        let root = status(Phase::Root, 1000, None);
        assert_eq!((late(&root, 16_000), late(&root, 16_001)), (None, Some(Phase::Root)));
        let between = status(Phase::Root, 1000, Some(2000));
        assert_eq!((late(&between, 7000), late(&between, 7001)), (None, Some(Phase::Root)));
        assert_eq!(late(&status(Phase::Exited, 1000, Some(2000)), 1 << 40), None, "it has ended");
        let failed = Status { outcome: Outcome::Failed, ..between };
        assert_eq!(late(&failed, 1 << 40), None, "it is held for a question");
        for phase in [Phase::Running, Phase::Stopping, Phase::Exited] {
            assert_eq!(late(&status(phase, 0, None), 1 << 40), None, "{phase:?} may take any time");
        }
        for phase in Phase::IN_ORDER.into_iter().filter(|phase| *phase < Phase::Running) {
            assert_eq!(late(&status(phase, 0, None), 1 << 40), Some(phase));
        }
    }

    #[test]
    fn no_thread_of_a_test_waits_uninterruptibly_for_ever() {
        // Any that does, for a moment, has its name and its place.
        assert!(waiting_threads().iter().all(|line| line.starts_with("thread ")));
    }
}
