//! PID 1's duties while the container runs: reap every child, forward signals, know how the program ended.

use crate::container::cgroup;
use image::status::Exit;
use nix::errno::Errno;
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::time::TimeSpec;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use std::time::{Duration, Instant};

/// Signals that are passed on to the container's program.
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

/// Blocks the signals that [`run`] waits for. Call it before any thread is started: threads inherit it.
pub fn block_signals() {
    if let Err(errno) = watched().thread_block() {
        log::error!("signals cannot be blocked: {errno}");
    }
}

/// Undoes [`block_signals`], in a process that goes its own way.
pub fn unblock_signals() {
    let _ = watched().thread_unblock();
}

/// How a program ended.
pub struct Ended {
    /// What the kernel said.
    pub exit: Exit,
    /// The guest had been asked to end it.
    pub asked: bool,
}

/// Waits until the program ends, reaping everything else that does meanwhile. The one owner of `waitpid`. Before it was
/// started, the out-of-memory killer had ended `kills` processes.
pub fn run(program: Pid, kills: u64) -> Ended {
    let signals = watched();
    let mut asked = false;
    loop {
        if let Some(exit) = reap(Some(program)) {
            return Ended { exit: Exit { oom: cgroup::oom_kills() > kills, ..exit }, asked };
        }
        match signals.wait() {
            Ok(Signal::SIGCHLD) => {}
            Ok(signal) => {
                asked |= asks_to_end(signal);
                log::info!("{signal} is forwarded to the container");
                let _ = kill(program, signal);
            }
            Err(errno) => log::warn!("waiting for signals: {errno}"),
        }
    }
}

fn asks_to_end(signal: Signal) -> bool {
    matches!(signal, Signal::SIGTERM | Signal::SIGINT | Signal::SIGQUIT)
}

/// Waits while no program runs, reaping what ends meanwhile. Returns early, and true, when the guest is asked to end.
pub fn pause(length: Duration) -> bool {
    let signals = watched();
    let end = Instant::now() + length;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return false;
        }
        match next_signal(&signals, left) {
            Some(Signal::SIGCHLD) => drop(reap(None)),
            Some(signal) if asks_to_end(signal) => return true,
            // For a program that is not there.
            Some(_) | None => {}
        }
    }
}

/// The next of these signals, or none within `longest`.
fn next_signal(signals: &SigSet, longest: Duration) -> Option<Signal> {
    let longest = TimeSpec::from_duration(longest);
    // SAFETY: both point to whole structures that live during the call, and sigtimedwait(2) may be told no siginfo.
    let number = unsafe { libc::sigtimedwait(signals.as_ref(), std::ptr::null_mut(), longest.as_ref()) };
    Signal::try_from(number).ok()
}

/// Reaps every child that has ended; tells how `program` did, if it is among them.
fn reap(program: Option<Pid>) -> Option<Exit> {
    let mut exit = None;
    loop {
        match waitpid(None::<Pid>, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(pid, code)) if Some(pid) == program => exit = Some((Some(code), None)),
            Ok(WaitStatus::Signaled(pid, signal, _)) if Some(pid) == program => {
                exit = Some((None, Some(signal as i32)));
            }
            Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => break,
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => {
                log::warn!("waitpid: {errno}");
                break;
            }
        }
    }
    exit.map(|(code, signal)| Exit { code, signal, oom: false })
}

/// Ends what the container left running, and reaps it.
pub fn end_the_rest() {
    cgroup::kill_all();
    let deadline = Instant::now() + Duration::from_secs(2);
    while Instant::now() < deadline {
        reap(None);
        if waitpid(None::<Pid>, Some(WaitPidFlag::WNOHANG)) == Err(Errno::ECHILD) {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    log::warn!("some processes did not end within 2 s of being killed");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_ends_early_when_the_guest_is_asked_to_end() {
        block_signals();
        assert!(!pause(Duration::ZERO));
        // To this thread alone; others of the test program do not block it.
        // SAFETY: pthread_self is this thread, which blocks the signals.
        let send = |signal: Signal| unsafe { libc::pthread_kill(libc::pthread_self(), signal as i32) };
        send(Signal::SIGUSR1);
        send(Signal::SIGTERM);
        assert!(pause(Duration::from_mins(1)));
        unblock_signals();
    }
}
