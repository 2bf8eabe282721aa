//! Duties of a PID 1, for the guest and for the container: reap every child, forward signals, record how the program ended.

use super::stop::{self, Order, StopSwitch};
use crate::container::{Reaper, Running, cgroup};
use image::status::Exit;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;
use std::fs::File;
use std::io::Write;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

/// Signals that the container's PID 1 forwards to the program. Those that ask to stop reach it through [`StopSwitch`].
const FORWARDED: [Signal; 7] = [
    Signal::SIGTERM,
    Signal::SIGINT,
    Signal::SIGHUP,
    Signal::SIGQUIT,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGWINCH,
];

fn watched() -> SigSet {
    let mut set: SigSet = FORWARDED.into_iter().collect();
    set.add(Signal::SIGCHLD);
    set
}

/// Blocks the signals that [`run`] waits for. Call it before any thread starts, since threads inherit the mask.
pub fn block_signals() {
    if let Err(errno) = watched().thread_block() {
        log::error!("cannot block signals: {errno}");
    }
}

/// The signals that guest-init itself forwards, and SIGCHLD.
fn forwarded() -> SigSet {
    let mut set = watched();
    stop::signals().iter().for_each(|signal| set.remove(signal));
    set
}

/// Undoes [`block_signals`], in a process that does not wait for signals.
pub fn unblock_signals() {
    let _ = watched().thread_unblock();
}

/// Exit of a container that could not report it.
const KILLED: Exit = Exit { code: None, signal: Some(Signal::SIGKILL as i32), oom: false };
/// Exit of a namespace's PID 1 after a process in it has called reboot(2) to power off (kernel/pid_namespace.c). The signal has
/// no other source: PID 1 blocks signals and reads them.
const POWERED_OFF: Exit = Exit { code: None, signal: Some(Signal::SIGINT as i32), oom: false };
/// Exit after a call of reboot(2) to restart.
const REBOOTED: Exit = Exit { code: None, signal: Some(Signal::SIGHUP as i32), oom: false };
/// Interval at which children are reaped while no program runs.
const REAP_PAUSE: Duration = Duration::from_millis(200);
/// Maximum time to wait for killed processes.
const LAST: Duration = Duration::from_secs(2);

/// How a program ended.
pub struct Ended {
    /// The exit status.
    pub exit: Exit,
    /// Whether the guest was asked to shut down.
    pub asked: bool,
}

/// Waits until the container's program has ended. `kills` is the number of out-of-memory kills before its start.
pub fn run(running: &Running, kills: u64, stop: &StopSwitch) -> Ended {
    let (mut exit, told) = wait_for_container(running, stop).unwrap_or_else(|errno| {
        log::error!("cannot wait for the container: {errno}");
        (KILLED, false)
    });
    let mut asked = stop.order().is_some();
    if !told && (exit == POWERED_OFF || exit == REBOOTED) {
        log::info!("the container requested a shutdown of the guest");
        (asked, exit) = (true, Exit { code: Some(0), signal: None, oom: false });
    }
    // A program that survives the kill of a worker and succeeds is not out of memory.
    let oom = cgroup::oom_kills() > kills && !exit.is_success();
    Ended { exit: Exit { oom, ..exit }, asked }
}

/// Waits for the container's PID 1. It reports how the program ended, and then waits until the kernel has killed the rest of the
/// namespace. A process stuck in a driver would block that for ever, so the report is sufficient. Also returns whether there was
/// a report.
fn wait_for_container(running: &Running, stop: &StopSwitch) -> nix::Result<(Exit, bool)> {
    let signals = SignalFd::with_flags(&forwarded(), SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?;
    let mut deadline = None;
    let mut stopping = Stopping::default();
    loop {
        stop.clear();
        let kill_at = stop.order().and_then(|order| stopping.carry_out(order, running.first));
        if stopping.killed {
            deadline.get_or_insert_with(|| Instant::now() + LAST);
        }
        let ended = reap(Some(running.first));
        match running.exit() {
            Ok(Some(exit)) => return Ok((exit, true)),
            // It was killed before it could report, and is about to be reaped.
            Ok(None) => drop(deadline.get_or_insert_with(|| Instant::now() + LAST)),
            Err(_) => {}
        }
        if let Some(exit) = ended {
            return Ok((exit, false));
        }
        let left =
            |moment: Option<Instant>| moment.map(|moment| moment.saturating_duration_since(Instant::now()));
        if left(deadline).is_some_and(|left| left.is_zero()) {
            return Ok((KILLED, false));
        }
        let without_wake = stop.descriptor().is_none().then(|| Instant::now() + REAP_PAUSE);
        let left = left(deadline.into_iter().chain(kill_at).chain(without_wake).min());
        let mut fds = vec![PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
        fds.extend(stop.descriptor().map(|wake| PollFd::new(wake, PollFlags::POLLIN)));
        // At its end the pipe stays readable.
        if deadline.is_none() {
            fds.push(PollFd::new(running.as_fd(), PollFlags::POLLIN));
        }
        let timeout = left.map_or(PollTimeout::NONE, |left| left.try_into().unwrap_or(PollTimeout::MAX));
        match poll(&mut fds, timeout) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno),
        }
        while let Ok(Some(info)) = signals.read_signal() {
            let signal = i32::try_from(info.ssi_signo).ok().and_then(|number| Signal::try_from(number).ok());
            if let Some(signal) = signal.filter(|signal| *signal != Signal::SIGCHLD) {
                log::info!("forwarding {signal} to the container");
                let _ = kill(running.first, signal);
            }
        }
    }
}

/// How far an [`Order`] was carried out.
#[derive(Default)]
struct Stopping {
    signalled: bool,
    killed: bool,
}

impl Stopping {
    /// Sends the signal to the container's PID 1, and kills the container when the grace period is over. Returns when that is,
    /// while it is not.
    fn carry_out(&mut self, order: Order, first: Pid) -> Option<Instant> {
        if !self.signalled {
            let _ = stop::send(first, order.signal);
            self.signalled = true;
        }
        if Instant::now() < order.deadline {
            return Some(order.deadline);
        }
        if !self.killed {
            log::warn!("the program did not stop within the grace period: killing it");
            let _ = kill(first, Signal::SIGKILL);
            cgroup::kill_all();
            self.killed = true;
        }
        None
    }
}

/// The functions of the container's PID 1.
pub const REAPER: Reaper = Reaper { block_signals, run: run_first };

/// Runs the container's PID 1: reaps, forwards signals, and finally reports how the program ended. When it exits, the kernel
/// kills the rest of the namespace.
fn run_first(program: Pid, told: &mut File) -> ! {
    let signals = watched();
    let exit = loop {
        if let Some(exit) = reap(Some(program)) {
            break exit;
        }
        if let Ok(signal) = signals.wait()
            && signal != Signal::SIGCHLD
        {
            let _ = kill(program, signal);
        }
    };
    // The reader of the pipe has gone.
    let _ = told.write_all(&serde_json::to_vec(&exit).unwrap_or_default());
    std::process::exit(0)
}

/// Waits while no program runs, and reaps children. Returns true, and early, if the guest is asked to stop.
pub fn pause(length: Duration, stop: &StopSwitch) -> bool {
    let end = Instant::now() + length;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        if stop.wait(left.min(REAP_PAUSE)) {
            return true;
        }
        reap(None);
        if left.is_zero() {
            return false;
        }
    }
}

/// Reaps every child that has ended, and returns the exit of `program` if it is among them. Uses signal numbers, since real-time
/// signals (32 and above) have no names.
pub fn reap(program: Option<Pid>) -> Option<Exit> {
    let mut exit = None;
    loop {
        let mut status = 0;
        // SAFETY: the status is an integer of ours that lives during the call.
        let pid = unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG) };
        if pid < 0 && Errno::last() == Errno::EINTR {
            continue;
        }
        if pid <= 0 {
            return exit;
        }
        if program == Some(Pid::from_raw(pid)) {
            exit = how_it_ended(status).or(exit);
        }
    }
}

/// Converts the status of waitpid(2) for a process that has ended.
fn how_it_ended(status: libc::c_int) -> Option<Exit> {
    let exit = |code, signal| Some(Exit { code, signal, oom: false });
    if libc::WIFEXITED(status) {
        return exit(Some(libc::WEXITSTATUS(status)), None);
    }
    if libc::WIFSIGNALED(status) { exit(None, Some(libc::WTERMSIG(status))) } else { None }
}

/// Kills and reaps the processes that the container left running.
pub fn end_the_rest() {
    cgroup::kill_all();
    super::reserve::release();
    let deadline = Instant::now() + LAST;
    while Instant::now() < deadline {
        reap(None);
        if waitpid(None::<Pid>, Some(WaitPidFlag::WNOHANG)) == Err(Errno::ECHILD) {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    log::warn!("some processes did not end within {} s after SIGKILL", LAST.as_secs());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_to_end_has_its_number() {
        let exit = |code, signal| Some(Exit { code, signal, oom: false });
        assert_eq!(how_it_ended(3 << 8), exit(Some(3), None));
        assert_eq!(how_it_ended(9), exit(None, Some(9)));
        // A real-time signal, with a core dump.
        assert_eq!(how_it_ended(0xa8), exit(None, Some(40)));
        // Stopped, continued.
        assert_eq!((how_it_ended(0x137f), how_it_ended(0xffff)), (None, None));
    }

    #[test]
    fn a_pause_ends_early_when_the_guest_is_asked_to_stop() {
        let board = crate::status::Board::new("k".into());
        let stop = StopSwitch::new(&board, stop::Recipient::Program);
        assert!(!pause(Duration::ZERO, &stop));
        stop.ask(image::event::StopBy::Host, libc::SIGTERM, Some(Duration::from_hours(1)));
        assert!(pause(Duration::from_mins(1), &stop));
    }
}
